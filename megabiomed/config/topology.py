"""Which topologies are legal: checked when the configuration is read, in milliseconds, with the nearest legal choice."""

from __future__ import annotations

from contextlib import suppress

from megabiomed.config.grid import Grid
from megabiomed.config.models import ModelConfig
from megabiomed.config.optimization import OptimizerConfig
from megabiomed.config.optimizers import OPTIMIZERS, SCHEDULES
from megabiomed.config.parallel import ParallelConfig
from megabiomed.config.pipeline_schedules import PIPELINE_SCHEDULES
from megabiomed.config.schema import DataConfig, RunConfig
from megabiomed.ground.errors import ConfigError, TopologyError

_SEARCHED = 2000  # numbers of replicas below and above, for an advice


def data_parallel_size(parallel: ParallelConfig, world: int, extra: int = 0) -> int:
    """Replicas in a world of this many processes; a world that the model does not divide is a `TopologyError`.

    Args:
        extra: ranks of the world without any part of the model.
    """
    model = parallel.tensor_parallel_size * parallel.pipeline_parallel_size
    if not _divides(parallel, world - extra):
        nearest = parallel.data_parallel_size or max(1, round((world - extra) / model))
        raise _misfit(parallel, world, extra, nearest)
    return (world - extra) // model


def _divides(parallel: ParallelConfig, ranks: int) -> bool:
    model, wanted = parallel.tensor_parallel_size * parallel.pipeline_parallel_size, parallel.data_parallel_size
    return ranks >= 1 and ranks % model == 0 and wanted in (None, ranks // model)


def _misfit(parallel: ParallelConfig, world: int, extra: int, replicas: int) -> TopologyError:
    """Of a world that the model does not divide; advises one with `replicas`."""
    tp, pp = parallel.tensor_parallel_size, parallel.pipeline_parallel_size
    others = f" + {extra} encoder ranks" if extra else ""
    return TopologyError(
        "the number of processes does not fit the topology",
        got=f"{world} processes",
        expected=f"tensor {tp} x pipeline {pp} x data {parallel.data_parallel_size or 'n'}{others}",
        do=f"start {tp * pp * replicas + extra} processes, or change parallel.data_parallel_size"
        + (" or align.dedicated_encoder_ranks" if extra else ""),
    )


def grid_of(parallel: ParallelConfig, world: int, extra: int = 0) -> Grid:
    """The grid of the model's ranks in a world of this many processes; one that it does not fit is a `TopologyError`.

    Args:
        extra: ranks of the world that hold nothing of the model.
    """
    replicas = data_parallel_size(parallel, world, extra)
    return Grid.of(pp=parallel.pipeline_parallel_size, dp=replicas, tp=parallel.tensor_parallel_size)


def default_world(parallel: ParallelConfig, devices: int, extra: int = 0) -> int:
    """Processes to start on one host: the configured topology, or as many replicas as its devices hold (at least one).

    Args:
        extra: further ranks without any part of the model.
    """
    model = parallel.tensor_parallel_size * parallel.pipeline_parallel_size
    return model * (parallel.data_parallel_size or max(1, (devices - extra) // model)) + extra


def check_run(config: RunConfig, world: int) -> None:
    """Refuse what cannot run or is not exact.

    Raises:
        TopologyError: with the nearest legal choice.
        ConfigError: another key than those of the topology is in the way.
    """
    parallel, extra = config.parallel, config.extra_ranks
    # Before the world: a number of processes that one of these would refuse next is no advice.
    _check_tensor(config.model, parallel)
    _check_pipeline(config.model, parallel)
    _check_engine(config)
    _check_optimizer(config.optimizer)
    if not _divides(parallel, world - extra):
        raise _misfit(parallel, world, extra, _nearest_replicas(config, world - extra))
    _check_batch(config, data_parallel_size(parallel, world, extra))
    if config.data.seq_length > config.model.max_position_embeddings:
        raise ConfigError(
            "data.seq_length exceeds the RoPE table",
            got=config.data.seq_length,
            expected=f"at most model.max_position_embeddings = {config.model.max_position_embeddings}",
            do="shorten the windows, or raise model.max_position_embeddings (the model has not seen such positions)",
        )


def _nearest_replicas(config: RunConfig, ranks: int) -> int:
    """The number of replicas nearest to what so many ranks hold that the batch divides into.

    Raises:
        ConfigError: the batch divides into none, or not into `parallel.data_parallel_size`.
    """
    parallel, data = config.parallel, config.data
    if parallel.data_parallel_size is not None:
        _check_batch(config, parallel.data_parallel_size)
        return parallel.data_parallel_size
    held = ranks / (parallel.tensor_parallel_size * parallel.pipeline_parallel_size)
    most = data.global_batch_size // data.micro_batch_size
    centre = min(round(held), most)
    around = range(max(1, centre - _SEARCHED), min(most, centre + _SEARCHED) + 1)
    for replicas in sorted(around, key=lambda count: (abs(count - held), -count)):
        with suppress(ConfigError):
            _check_batch(config, replicas)
            return replicas
    _check_batch(config, 1)
    return 1


def _check_tensor(model: ModelConfig, parallel: ParallelConfig) -> None:
    tp = parallel.tensor_parallel_size
    # Query heads and the feed-forward layer are cut between ranks, never inside a head. Key/value heads are also cut inside,
    # equally (model/split_heads.py). The vocabulary is not in the list: its last shard is padded.
    for key in _CUT:
        count = getattr(model, key)
        if not _cuts(model, key, tp):
            legal = next(
                ranks
                for ranks in range(min(tp, model.num_attention_heads), 0, -1)
                if all(_cuts(model, name, ranks) for name in _CUT)
            )
            raise TopologyError(
                f"tensor_parallel_size does not divide model.{key}",
                got=f"{key} {count} over {tp} ranks",
                expected="a divisor of num_attention_heads and intermediate_size, and a divisor or multiple of "
                "num_key_value_heads",
                do=f"set parallel.tensor_parallel_size={legal}"
                + (" and parallel.sequence_parallel=false" if legal == 1 and parallel.sequence_parallel else ""),
            )
    if parallel.sequence_parallel and tp == 1:
        raise TopologyError(
            "sequence_parallel splits over the tensor ranks, and there is one",
            got="tensor_parallel_size 1",
            do="set parallel.sequence_parallel=false or parallel.tensor_parallel_size=2",
        )


_CUT = ("num_attention_heads", "num_key_value_heads", "intermediate_size")


def _cuts(model: ModelConfig, key: str, ranks: int) -> bool:
    count: int = getattr(model, key)
    if key != "num_key_value_heads" or count >= ranks:
        return count % ranks == 0
    # Fewer heads than ranks: several ranks share one head and cut it inside, equally.
    return ranks % count == 0 and model.head_size % (ranks // count) == 0


def _check_pipeline(model: ModelConfig, parallel: ParallelConfig) -> None:
    pp, virtual = parallel.pipeline_parallel_size, parallel.virtual_pipeline_stages
    several = PIPELINE_SCHEDULES[parallel.pipeline_schedule].several_chunks
    if several and (pp == 1 or virtual == 1):
        raise TopologyError(
            f"the {parallel.pipeline_schedule} schedule needs several stages of several chunks",
            got=f"pipeline_parallel_size {pp}, virtual_pipeline_stages {virtual}",
            do="set both to 2 or more, or parallel.pipeline_schedule=1f1b",
        )
    if virtual > 1 and not several:
        raise TopologyError(
            "several chunks per pipeline rank run only under the interleaved schedule",
            got=f"virtual_pipeline_stages {virtual}, pipeline_schedule {parallel.pipeline_schedule}",
            do="set parallel.pipeline_schedule=interleaved or parallel.virtual_pipeline_stages=1",
        )
    if model.num_hidden_layers < pp * virtual:
        raise TopologyError(
            "there are more pipeline stages than layers",
            got=f"{model.num_hidden_layers} layers for {pp} x {virtual} stages",
            do=f"set parallel.pipeline_parallel_size to at most {model.num_hidden_layers // virtual}"
            if model.num_hidden_layers // virtual > several
            else "use fewer parallel.virtual_pipeline_stages, or parallel.pipeline_schedule=1f1b without them",
        )


def _check_engine(config: RunConfig) -> None:
    parallel = config.parallel
    # Every pair of engine, stage and schedule that passes here is compared with one process in the parity suite. A pair that
    # is not is refused, even where it may work.
    if parallel.engine == "fsdp2":
        if parallel.offload_optimizer:
            raise TopologyError(
                "offload_optimizer is a feature of the deepspeed engine",
                got="engine fsdp2",
                do="set parallel.engine=deepspeed or parallel.offload_optimizer=false",
            )
        if not PIPELINE_SCHEDULES[parallel.pipeline_schedule].fsdp2:
            raise TopologyError(
                f"the {parallel.pipeline_schedule} schedule with FSDP2 is not in the parity suite",
                got=f"engine fsdp2, pipeline_schedule {parallel.pipeline_schedule}",
                do="set parallel.engine=deepspeed, or parallel.pipeline_schedule=1f1b",
            )
        return
    proven = PIPELINE_SCHEDULES[parallel.pipeline_schedule].zero_stages
    if parallel.zero_stage not in proven:
        raise TopologyError(
            f"the {parallel.pipeline_schedule} schedule is not exact with this ZeRO stage",
            got=f"zero_stage {parallel.zero_stage}",
            expected=f"one of {', '.join(map(str, proven))}",
            do="choose another parallel.zero_stage or parallel.pipeline_schedule",
        )
    if parallel.offload_optimizer and parallel.zero_stage == 0:
        raise TopologyError(
            "offload_optimizer needs a sharded optimizer",
            got="zero_stage 0",
            do="set parallel.zero_stage=1 or higher",
        )
    if parallel.zero_stage == 0 and config.train.compute_type == "bf16":
        raise TopologyError(
            "zero_stage 0 in bf16 would accumulate and reduce gradients in bf16 (DeepSpeed has no fp32 path there)",
            got="zero_stage 0, precision bf16",
            do="set parallel.zero_stage=1 (the same communication, less memory) or train.precision=fp32",
        )


def _check_optimizer(optimizer: OptimizerConfig) -> None:
    """Whoever reads a stored configuration need not have a run's own optimizer installed; whoever starts it must."""
    OPTIMIZERS.find(optimizer.kind)
    SCHEDULES.find(optimizer.schedule)


def check_global_batch(data: DataConfig, dp: int, unit: int = 1, least: int = 1) -> int:
    """Micro-batches of one replica in one step; a batch that does not divide is a `ConfigError` with the nearest sizes.

    Args:
        unit, least: what else is asked of the number of micro-batches, for the sizes that are advised: a multiple of `unit`
            and at least `least`.
    """
    share = data.micro_batch_size * dp
    if data.global_batch_size % share:
        below = data.global_batch_size // (share * unit) * unit
        sizes = dict.fromkeys(share * max(count, unit, least) for count in (below, below + unit))
        raise ConfigError(
            "global_batch_size does not divide into micro-batches",
            got=f"{data.global_batch_size} samples over {dp} replicas x micro_batch_size {data.micro_batch_size}",
            expected=f"a multiple of {share * unit}",
            do=f"set data.global_batch_size={' or '.join(map(str, sizes))}",
        )
    return data.global_batch_size // share


def _check_batch(config: RunConfig, dp: int) -> None:
    data, parallel = config.data, config.parallel
    pp = parallel.pipeline_parallel_size
    share = data.micro_batch_size * dp
    schedule = PIPELINE_SCHEDULES[parallel.pipeline_schedule]
    micro_batches = check_global_batch(data, dp, pp if schedule.rounds else 1, pp if schedule.fills else 1)
    if schedule.rounds and micro_batches % pp:
        raise TopologyError(
            f"the {parallel.pipeline_schedule} schedule needs a multiple of pipeline_parallel_size micro-batches",
            got=f"{micro_batches} micro-batches, {pp} stages",
            do=f"set data.global_batch_size to a multiple of {share * pp}",
        )
    if schedule.fills and micro_batches < pp:
        raise TopologyError(
            f"the {parallel.pipeline_schedule} schedule needs at least as many micro-batches as stages",
            got=f"{micro_batches} micro-batches, {pp} stages",
            do=f"set data.global_batch_size={share * pp} or more, or parallel.pipeline_schedule=gpipe",
        )
    tokens = data.micro_batch_size * data.seq_length
    if parallel.sequence_parallel and tokens % parallel.tensor_parallel_size:
        raise TopologyError(
            "sequence_parallel splits each micro-batch evenly",
            got=f"{tokens} tokens over {parallel.tensor_parallel_size} tensor ranks",
            do="choose data.seq_length divisible by parallel.tensor_parallel_size",
        )
