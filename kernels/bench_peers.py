"""The same operations in other libraries, where these are installed; otherwise the reason why there is no figure."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from megabiomed.kernels.document_attention import Heads, split_heads
from megabiomed.kernels.documents import documents_of_lengths
from megabiomed.kernels.library_attention import FLASH4, flex, installed
from megabiomed.kernels.rope import apply_rope

if TYPE_CHECKING:
    from megabiomed.kernels.adamw import Rule
    from megabiomed.kernels.adamw import Shard as FlatShard
    from megabiomed.kernels.bench_cases import Shapes

Forward = Callable[[], Any]


class Peer(NamedTuple):
    """A call and what it is, or no call and why not; a yardstick computes something else."""

    call: Forward | None
    note: str
    yardstick: bool = False


def attention_peers(s: Shapes, qkv: Tensor, cos: Tensor, sin: Tensor) -> dict[str, Peer]:
    """RoPE in torch, then SDPA without document bounds (a yardstick) and Transformer Engine with them."""
    heads = Heads(s.heads, s.kv_heads)

    def rotated() -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = split_heads(qkv, heads)
        return apply_rope(q, cos, sin), apply_rope(k, cos, sin), v

    def causal(backend: str | None) -> Tensor:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        parts = [x.transpose(0, 1)[None] for x in rotated()]
        # By name: left to itself, torch falls back to another kernel without a word, and its time would be reported.
        with sdpa_kernel([getattr(SDPBackend, backend)] if backend else list(SDPBackend.__members__.values())[1:]):
            return F.scaled_dot_product_attention(*parts, is_causal=True, enable_gqa=s.heads != s.kv_heads)

    ignores = "ignores documents: another operation, a yardstick"
    if s.device.type == "cpu":
        return {
            "sdpa flash": Peer(partial(causal, "FLASH_ATTENTION"), ignores, yardstick=True),
            "sdpa cudnn": Peer(None, "needs a GPU"),
            "transf. engine": Peer(None, "needs a GPU"),
            "flex flash": Peer(None, "needs a GPU"),
        }
    return {
        "sdpa flash": Peer(partial(causal, "FLASH_ATTENTION"), ignores, yardstick=True),
        "sdpa cudnn": Peer(partial(causal, "CUDNN_ATTENTION"), f"{ignores}; torch gives it no bounds", yardstick=True),
        "transf. engine": _transformer_engine(s, rotated),
        "flex flash": _flex_flash(s, rotated),
    }


def _flex_flash(s: Shapes, rotated: Callable[[], tuple[Tensor, Tensor, Tensor]]) -> Peer:
    from torch.nn.attention.flex_attention import FlexKernelOptions

    if "BACKEND" not in FlexKernelOptions.__annotations__:
        return Peer(None, "this torch has one kernel for FlexAttention")
    if not installed(FLASH4):
        return Peer(None, "flash-attn-4 is not installed")
    documents = documents_of_lengths(s.documents, s.device)
    return Peer(lambda: flex(*rotated(), documents, "FLASH"), "FlexAttention with the kernels of FlashAttention-4")


def _transformer_engine(s: Shapes, rotated: Callable[[], tuple[Tensor, Tensor, Tensor]]) -> Peer:
    if find_spec("transformer_engine") is None:
        return Peer(None, "transformer_engine is not installed")
    edges = torch.tensor([0, *accumulate(s.documents)], dtype=torch.int32, device=s.device)
    longest = max(s.documents)
    made: list[Any] = []

    def attend() -> Tensor:
        if not made:
            from transformer_engine.pytorch import DotProductAttention

            made.append(DotProductAttention(s.heads, s.head_dim, num_gqa_groups=s.kv_heads, qkv_format="thd"))
        bounds = {"cu_seqlens_q": edges, "cu_seqlens_kv": edges, "max_seqlen_q": longest, "max_seqlen_kv": longest}
        out: Tensor = made[0](*rotated(), attn_mask_type="padding_causal", **bounds)
        return out

    return Peer(attend, "cuDNN with document bounds")


def norm_peers(s: Shapes, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> dict[str, Peer]:
    """Liger's fused add + RMSNorm."""
    return {"liger": _liger(s, "liger_fused_add_rms_norm", x, residual, weight, eps, in_place=False)}


def swiglu_peers(s: Shapes, gate: Tensor, up: Tensor) -> dict[str, Peer]:
    """Liger's SwiGLU, which takes two tensors and overwrites them in its backward pass."""
    return {"liger": _liger(s, "liger_swiglu", gate, up)}


def loss_peers(s: Shapes, hidden: Tensor, weight: Tensor, labels: Tensor) -> dict[str, Peer]:
    """All logits at once, and Liger's fused form."""

    def unfused() -> Tensor:
        return F.cross_entropy((hidden @ weight.t()).float(), labels, reduction="sum")

    return {
        "unfused": Peer(unfused, "linear, then F.cross_entropy; holds all logits"),
        "liger": _liger(s, "liger_fused_linear_cross_entropy", hidden, weight, labels, reduction="sum"),
    }


def adamw_peers(s: Shapes, shard: FlatShard, rule: Rule) -> dict[str, Peer]:
    """DeepSpeed's step for parameters in host memory."""
    name = "deepspeed cpu"
    if s.device.type != "cpu":
        return {name: Peer(None, "for parameters in host memory")}
    from torch.utils.cpp_extension import _get_build_directory

    built = find_spec("deepspeed") is not None and (_directory(_get_build_directory) / "cpu_adam.so").exists()
    if not built:
        how = "python -c 'from deepspeed.ops.op_builder import CPUAdamBuilder; CPUAdamBuilder().load()' builds it"
        return {name: Peer(None, f"not built here; {how}")}
    return {name: Peer(_deepspeed_cpu(shard, rule), "without clipping and cast")}


def _directory(of: Callable[[str, bool], str]) -> Any:
    from pathlib import Path

    return Path(of("cpu_adam", False))


def _deepspeed_cpu(shard: FlatShard, rule: Rule) -> Forward:
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    parameter = torch.nn.Parameter(shard.master.clone())
    parameter.grad = shard.gradient.float().clone()
    optimizer = DeepSpeedCPUAdam(
        [parameter], lr=rule.lr, betas=rule.betas, eps=rule.eps, weight_decay=rule.weight_decay, adamw_mode=True
    )

    def step() -> Tensor:
        optimizer.step()
        return parameter.detach()

    return step


def _liger(s: Shapes, function: str, *arguments: Any, **options: Any) -> Peer:
    if s.device.type == "cpu":
        return Peer(None, "needs a GPU")
    if find_spec("liger_kernel") is None:
        return Peer(None, "liger_kernel is not installed")

    def call() -> Any:
        from liger_kernel.transformers import functional

        return getattr(functional, function)(*arguments, **options)

    return Peer(call, "peer")
