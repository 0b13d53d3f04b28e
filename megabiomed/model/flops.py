"""Arithmetic of a model: parameters, FLOPs per token, bytes per rank. The formulas are stated because conventions differ."""

from __future__ import annotations

from megabiomed.config import LoraConfig, ModelConfig, OptimizerConfig, ParallelConfig, RunConfig
from megabiomed.model.registry import architecture_of


def parameter_count(model: ModelConfig) -> int:
    """All parameters, embedding and output head included."""
    return architecture_of(model).parameters()


def trained_count(model: ModelConfig, lora: LoraConfig | None) -> int:
    """Parameters that are trained: all, or those of the adapters."""
    return architecture_of(model).parameters(lora)


def flops_per_token(model: ModelConfig, seq_length: int, lora: LoraConfig | None = None) -> float:
    """Training FLOPs per token: 6 N + 12 L q s with q the width of all query heads (Narayanan et al. 2021; PaLM, appendix B).

    With adapters of n parameters 4 N + 6 n: no gradients of the frozen weights are computed.

    N counts every parameter; attention is counted as if every token saw the whole window (no causal discount, no document
    mask); recomputation of activations is not counted, so MFU falls when it is used.
    """
    attention = 12 * model.num_hidden_layers * model.num_attention_heads * model.head_size * seq_length
    if lora is not None:
        return 4.0 * parameter_count(model) + 6.0 * trained_count(model, lora) + attention
    return 6.0 * parameter_count(model) + attention


def model_flops_utilization(tokens_per_s: float, per_token: float, devices: int, peak: float | None) -> float | None:
    """Achieved share of the devices' peak, or None where the peak is unknown."""
    return None if peak is None else tokens_per_s * per_token / (devices * peak)


def state_bytes_per_rank(config: RunConfig, dp: int) -> dict[str, float]:
    """Bytes of weights, gradients and optimizer state on one rank of the largest stage, activations excluded.

    bf16: 2 + 4 (fp32 accumulation) + 4 (fp32 master) + the optimizer's moments (AdamW's: 8) per parameter, each divided where
    it is sharded. Next to adapters the frozen weights have neither gradients nor optimizer state; FSDP2 keeps its
    shards of them in fp32.
    """
    parallel: ParallelConfig = config.parallel
    parts = parallel.tensor_parallel_size * parallel.pipeline_parallel_size
    local = trained_count(config.model, config.lora) / parts
    frozen = parameter_count(config.model) / parts if config.lora is not None else 0.0
    stage = 3 if parallel.engine == "fsdp2" else parallel.zero_stage
    half = config.train.precision == "bf16"
    masters = 0 if stage == 0 and not half else 4  # stage 0 in fp32 steps the weights themselves
    held = 2 if half else 4
    beside = frozen * (4 if parallel.engine == "fsdp2" else held)
    return {
        "weights": (local * held + beside) / (dp if stage == 3 else 1),
        "gradients": local * 4 / (dp if stage >= 2 else 1),
        "optimizer": local * (config.optimizer.rule.moment_bytes + masters) / (dp if stage >= 1 else 1),
    }


def checkpoint_bytes(model: ModelConfig, optimizer: OptimizerConfig, lora: LoraConfig | None = None) -> int:
    """Size of one checkpoint: fp32 weights and the optimizer's moments of what is trained."""
    return (4 + optimizer.rule.moment_bytes) * trained_count(model, lora)
