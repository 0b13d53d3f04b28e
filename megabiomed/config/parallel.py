"""Keys of a run that say how it is spread over ranks and computed: the topology and the kernels."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from megabiomed.config.base import Section


class ParallelConfig(Section):
    """The topology: world = pipeline x data x tensor, tensor fastest. docs/parallelism.md says what each costs."""

    tensor_parallel_size: PositiveInt = 1
    """Ranks that share each weight matrix (keep it inside a node)."""
    pipeline_parallel_size: PositiveInt = 1
    """Ranks that each hold a consecutive part of the layers."""
    data_parallel_size: PositiveInt | None = None
    """Model replicas; null uses all remaining processes."""
    sequence_parallel: bool = False
    """Split the residual stream over the tensor ranks between matrix products (Korthikanti et al. 2022)."""
    virtual_pipeline_stages: PositiveInt = 1
    """Chunks of consecutive layers per pipeline rank; more than 1 needs pipeline_schedule: interleaved."""
    pipeline_schedule: Literal["1f1b", "gpipe", "interleaved"] = "1f1b"
    """Order of forwards and backwards of the micro-batches on a pipeline rank."""
    engine: Literal["deepspeed", "fsdp2"] = "deepspeed"
    """Data-parallel engine: DeepSpeed ZeRO (default) or torch FSDP2."""
    # 1: the communication of stage 0 with less memory. 2 and 3 save more and communicate in every micro-batch of a pipeline.
    zero_stage: Literal[0, 1, 2, 3] = 1
    """DeepSpeed: 0 replicate, 1 shard optimizer, 2 + gradients, 3 + parameters. FSDP2 shards as stage 3."""
    offload_optimizer: bool = False
    """Keep master weights and moments in host memory and step there (deepspeed, zero_stage >= 1)."""
    activation_checkpointing: Literal["none", "selective", "full"] = "none"
    """selective recomputes attention and SwiGLU in the backward pass; full recomputes whole blocks."""


class KernelsConfig(Section):
    """The implementation of each fused operation; `auto` chooses by device, type and shape (docs/kernels.md).

    A backend that cannot serve the run is an error before anything is built; it is never replaced silently.
    """

    attention: Literal[
        "auto", "per_document", "hopper", "triton", "flash4", "flash3", "varlen", "flash2", "flex", "dense"
    ] = "auto"
    """Document-masked causal attention with RoPE. per_document is for CPUs; flash2, flash3 and flash4 need flash-attn
    installed; hopper is for sm_90 and first checks itself against fp64, once for a kind of machine."""
    norm: Literal["auto", "cpu", "triton", "torch"] = "auto"
    """RMSNorm with the residual add."""
    swiglu: Literal["auto", "cpu", "triton", "torch"] = "auto"
    """SwiGLU."""
    loss: Literal["auto", "cpu", "triton", "torch"] = "auto"
    """Reductions of the chunked output head and loss."""
    adamw: Literal["auto", "triton", "torch"] = "auto"
    """The step of optimizer.kind adamw, with clipping and cast; an offloaded optimizer (parallel.offload_optimizer) and other
    kinds are stepped by torch."""
    loss_chunk_tokens: PositiveInt | None = None
    """Number of tokens whose logits exist at the same time; null keeps the logits at 256 MiB (GPU, bf16) or 32 MiB (CPU)."""
    weight_gradient: Literal["auto", "bits", "hook"] = "auto"
    """How gradients of bf16 matrices reach fp32: auto accumulates in the matrix product; bits rounds each product to bf16 and
    adds it to the same buffers (a check); hook leaves it to the engine's hooks, with the same bits and more traffic."""
    deterministic: bool = False
    """Use only backends that give the same bits in every backward pass (on a CPU all do)."""
