"""What a run will compute, hold and store, printed before step 1 and by a dry run."""

from __future__ import annotations

from megabiomed.config import RunConfig
from megabiomed.config.topology import data_parallel_size
from megabiomed.kernels import fp8
from megabiomed.kernels.dispatch import choices_of
from megabiomed.model.flops import (
    checkpoint_bytes,
    parameter_count,
    state_bytes_of_stages,
    trained_count,
    window_flops_per_token,
)
from megabiomed.model.rates import lr_factors
from megabiomed.model.registry import architecture_of
from megabiomed.processes import platform
from megabiomed.runs.schedule import describe_schedule


def estimate(config: RunConfig, world: int, total_steps: int | None, samples_per_epoch: int | None) -> list[str]:
    """Lines of `key: value`.

    Args:
        total_steps: None where no data is there yet to count epochs in; no line says then what the whole run takes.
        samples_per_epoch: None when no data is there yet (a dry run on another machine).

    Raises:
        ConfigError: a factor of the learning rate fits no tensor.
    """
    lr_factors(config)
    data = config.data
    parallel = config.parallel
    extra = config.extra_ranks
    dp = data_parallel_size(parallel, world, extra)
    tokens_per_step = data.global_batch_size * data.seq_length
    engine = "FSDP2" if parallel.engine == "fsdp2" else f"DeepSpeed ZeRO-{parallel.zero_stage}"
    layout = f"pipeline {parallel.pipeline_parallel_size} x data {dp} x tensor {parallel.tensor_parallel_size}"
    lines = [
        f"model: {parameter_count(config.model):,} parameters, {config.train.precision}" + _adapters(config),
        f"topology: {layout} = {world - extra} processes, {engine}, {_schedule(config)}"
        + (f"; {extra} more with encoders alone" if extra else ""),
        f"device: {platform.describe()}",
        *_kernels(config),
        f"batch: {data.global_batch_size} x {data.seq_length} = {tokens_per_step:,} tokens per step, "
        f"{data.global_batch_size // (data.micro_batch_size * dp)} micro-batches of {data.micro_batch_size}",
        *_length(config, total_steps, samples_per_epoch),
        _memory(config, dp),
        f"checkpoint: {_size(checkpoint_bytes(config.model, config.optimizer, config.lora))} each, "
        f"every {config.checkpoint.save_every or 'never'} steps",
    ]  # fmt: skip
    return lines + _costs(config)


def _memory(config: RunConfig, dp: int) -> str:
    """Of the stage that holds most, because that is the one that fits or does not; with the range where stages differ."""
    stages = state_bytes_of_stages(config, dp)
    totals = [sum(state.values()) for state in stages]
    most = totals.index(max(totals))
    parts = ", ".join(f"{name} {_size(value)}" for name, value in stages[most].items())
    line = f"memory per rank: {parts}, together {_size(totals[most])} without activations"
    if len(stages) == 1:
        return line
    return f"{line} (stage {most + 1} of {len(stages)}, the largest; the smallest {_size(min(totals))})"


def _adapters(config: RunConfig) -> str:
    if config.lora is None:
        return ""
    count, lora = trained_count(config.model, config.lora), config.lora
    share = count / parameter_count(config.model)
    targets = ", ".join(architecture_of(config.model).targets(lora))
    return f"; trained: {count:,} ({share:.2%}) in adapters of rank {lora.rank} on {targets}"


def _kernels(config: RunConfig) -> list[str]:
    model, dtype = config.model, platform.DTYPES[config.train.compute_type]
    choices = choices_of(config.kernels, platform.device(), dtype, model.hidden_size, model.head_size)
    names = ", ".join(f"{op} {choice.name}" for op, choice in choices.items())
    lines = [f"kernels: {names}", f"attention: {choices['attention'].why}"]
    if config.train.precision != "fp8":
        return lines
    # Refuses a device without fp8 here, before anything is built.
    fp8.require(platform.device())
    return [*lines, f"fp8: {fp8.choice(fp8.site(platform.device())).why}"]


def _schedule(config: RunConfig) -> str:
    parallel = config.parallel
    if parallel.pipeline_parallel_size == 1:
        return "no pipeline"
    return f"{parallel.pipeline_schedule} schedule"


def _length(config: RunConfig, total_steps: int | None, samples_per_epoch: int | None) -> list[str]:
    """Steps and FLOP of the whole run, or FLOP per token alone."""
    data = config.data
    per_token = window_flops_per_token(config.model, data.seq_length, config.lora)
    weights = "6 a weight" if config.lora is None else "4 a frozen weight, 6 a trained one"
    formula = f"({weights}; causal attention over whole windows; no recomputation)"
    if total_steps is None:
        return [f"compute: {per_token:.3e} FLOP per token {formula}"]
    steps = total_steps - config.train.first_step
    tokens = steps * data.global_batch_size * data.seq_length
    return [
        f"length: {steps:,} steps, {tokens:,} tokens" + _epochs(config, steps, samples_per_epoch),
        describe_schedule(config, total_steps),
        f"compute: {per_token:.3e} FLOP per token, {per_token * tokens:.3e} FLOP in all {formula}",
    ]


def _epochs(config: RunConfig, total_steps: int, samples_per_epoch: int | None) -> str:
    if not samples_per_epoch:
        return ""
    return f", {total_steps * config.data.global_batch_size / samples_per_epoch:.2f} epochs of {samples_per_epoch:,} samples"


def _costs(config: RunConfig) -> list[str]:
    """What an expensive combination costs, in words, where the user should know."""
    parallel = config.parallel
    sharded = parallel.engine == "fsdp2" or parallel.zero_stage == 3
    if sharded and parallel.pipeline_parallel_size > 1:
        return ["note: sharded parameters under a pipeline are gathered for every micro-batch; zero_stage 1 is faster "
                "where its memory fits"]  # fmt: skip
    return []


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} TiB"
