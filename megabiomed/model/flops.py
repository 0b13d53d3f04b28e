"""Arithmetic of a model: parameters, FLOPs of training, bytes per rank. The formulas are stated because conventions differ."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from megabiomed.config import LoraConfig, ModelConfig, OptimizerConfig, ParallelConfig, RunConfig
from megabiomed.config.grid import PipelineParts
from megabiomed.model.registry import architecture_of


def parameter_count(model: ModelConfig) -> int:
    """All parameters, embedding and output head included."""
    return architecture_of(model).parameters()


def trained_count(model: ModelConfig, lora: LoraConfig | None) -> int:
    """Parameters that are trained: all, or those of the adapters."""
    return architecture_of(model).parameters(lora)


class TrainingFlops(NamedTuple):
    """FLOPs of forward and backward passes.

    Attributes:
        model: what the mathematics needs; the numerator of MFU.
        hardware: with what is computed a second time; the numerator of HFU.
    """

    model: float
    hardware: float


def training_flops(
    model: ModelConfig, tokens: int, visible_pairs: int, lora: LoraConfig | None = None, recompute: str = "none"
) -> TrainingFlops:
    """FLOPs of training on some tokens, by what these tokens see.

    Model FLOPs: 6 per token and weight that multiplies it (2 forward, 2 for the gradient of its input, 2 for its own; a frozen
    weight has no gradient of its own: 4). The output head counts, the lookup in the embedding does not. Attention: 12 q per
    layer and visible pair, with q the width of all query heads: two products forward, four backward, causal and inside
    documents. Norms, activations, softmax, biases and the optimizer are not counted.

    Hardware FLOPs add 2 q per layer and pair, because fused attention keeps no scores and its backward pass computes Q K^T
    again (five products; FlashAttention-2, Dao 2023, section 3.1.2; what a backend does beyond five is its own cost and not
    counted), and what `parallel.activation_checkpointing` repeats: attention forward (selective and full), the matrices of
    the layers forward (full).

    Args:
        tokens: computed tokens, padding included.
        visible_pairs: (query, key) pairs that see each other: n (n + 1) / 2 for each document of n tokens.
        recompute: "none", "selective" or "full".
    """
    architecture = architecture_of(model)
    matrices = architecture.multiplied
    held = sum(prod(matrix.shape) for matrix in matrices)
    layers = sum(prod(matrix.shape) for matrix in matrices if 0 <= matrix.layer < model.num_hidden_layers)
    factors = trained_count(model, lora) if lora is not None else 0
    products = (6 if lora is None else 4) * held + 6 * factors
    attention = architecture.flops_per_pair * visible_pairs
    again = attention / 2
    if recompute != "none":
        again += attention
    if recompute == "full":
        again += 2 * (layers + factors) * tokens
    needed = products * tokens + 3 * attention
    return TrainingFlops(needed, needed + again)


def window_flops_per_token(model: ModelConfig, seq_length: int, lora: LoraConfig | None = None) -> float:
    """Model FLOPs per token of a window that is one document; shorter documents take less."""
    return training_flops(model, seq_length, seq_length * (seq_length + 1) // 2, lora).model / seq_length


def palm_flops_per_token(model: ModelConfig, seq_length: int) -> float:
    """6 N + 12 L q s per token: the convention of PaLM (appendix B) and of Narayanan et al. 2021, for published figures only.

    N counts every parameter, the embedding too; every token attends to the whole window, past and future.
    """
    attention = 12 * model.num_hidden_layers * model.num_attention_heads * model.head_size * seq_length
    return 6.0 * parameter_count(model) + attention


def utilization(flops: float, seconds: float, devices: int, peak: float | None) -> float | None:
    """Achieved share of the devices' peak, or None where the peak is unknown: MFU of model FLOPs, HFU of hardware FLOPs."""
    return None if peak is None else flops / seconds / (devices * peak)


def state_bytes_per_rank(config: RunConfig, dp: int) -> dict[str, float]:
    """`state_bytes_of_stages` of the pipeline stage that holds most."""
    return max(state_bytes_of_stages(config, dp), key=lambda state: sum(state.values()))


def state_bytes_of_stages(config: RunConfig, dp: int) -> list[dict[str, float]]:
    """Bytes of weights, gradients and optimizer state on one rank of each pipeline stage, activations excluded.

    The stages differ: the first holds the embedding, the last the output head, and layers need not divide evenly. Of tensor
    ranks that differ, the one that holds most counts (`LogicalTensor.share`).

    bf16: 2 + 4 (fp32 accumulation) + 4 (fp32 master) + the optimizer's moments (AdamW's: 8) per parameter, each divided where
    it is sharded. Next to adapters the frozen weights have neither gradients nor optimizer state; FSDP2 keeps its
    shards of them in fp32. Of a tied matrix that is trained the last of several stages holds a whole copy: 2 bytes
    in bf16, and 4 for its gradient.
    """
    trained = held_by_stages(config.model, config.parallel, config.lora)
    if config.lora is not None:
        frozen = held_by_stages(config.model, config.parallel)
        frozen[-1] += copied_head(config.model, config.parallel)
        return [_state_bytes(config, dp, *counts) for counts in zip(trained, frozen)]
    found, copied = (
        [_state_bytes(config, dp, count, 0) for count in trained],
        copied_head(config.model, config.parallel),
    )
    found[-1]["weights"] += copied * _compute_bytes(config)
    found[-1]["gradients"] += copied * 4
    return found


def copied_head(model: ModelConfig, parallel: ParallelConfig) -> int:
    """Elements of the copy of a tied matrix on one tensor rank of the last pipeline stage; 0 where both uses are on one rank.

    It is no parameter of its own: no optimizer has state of it, and no checkpoint holds it.
    """
    architecture = architecture_of(model)
    copies = architecture.tied and parallel.pipeline_parallel_size > 1
    return architecture.head.share(parallel.tensor_parallel_size) if copies else 0


def held_by_stages(model: ModelConfig, parallel: ParallelConfig, lora: LoraConfig | None = None) -> list[int]:
    """For each pipeline stage the parameters on one tensor rank: all of them, or those of the adapters.

    A tied head belongs to the first stage; see `copied_head`.
    """
    architecture = architecture_of(model)
    parts = PipelineParts(parallel.pipeline_parallel_size, parallel.virtual_pipeline_stages)
    found, last = [0] * parts.stages, model.num_hidden_layers - 1
    # One pass over the tensors: a deep model has as many stages as it likes.
    stages = [
        parts.stage(part) for part, (low, high) in enumerate(architecture.chunks(len(parts))) for _ in range(low, high)
    ]
    for tensor in architecture.trained(lora).values():
        found[stages[min(max(tensor.layer, 0), last)]] += tensor.share(parallel.tensor_parallel_size)
    return found


def _state_bytes(config: RunConfig, dp: int, local: int, frozen: int) -> dict[str, float]:
    """Of a rank with `local` trained parameters and `frozen` ones before they are sharded over `dp` replicas."""
    parallel = config.parallel
    stage = 3 if parallel.engine == "fsdp2" else parallel.zero_stage
    held = _compute_bytes(config)
    masters = 0 if stage == 0 and held == 4 else 4  # stage 0 in fp32 steps the weights themselves
    beside = frozen * (4 if parallel.engine == "fsdp2" else held)
    return {
        "weights": (local * held + beside) / (dp if stage == 3 else 1),
        "gradients": local * 4 / (dp if stage >= 2 else 1),
        "optimizer": local * (config.optimizer.rule.moment_bytes + masters) / (dp if stage >= 1 else 1),
    }


def _compute_bytes(config: RunConfig) -> int:
    """Of one element in the compute type."""
    return 2 if config.train.compute_type == "bf16" else 4


def checkpoint_bytes(model: ModelConfig, optimizer: OptimizerConfig, lora: LoraConfig | None = None) -> int:
    """Size of one checkpoint: fp32 weights and the optimizer's moments of what is trained."""
    return (4 + optimizer.rule.moment_bytes) * trained_count(model, lora)
