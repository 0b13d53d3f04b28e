"""What `megabiomed bench kernels` times: one layer's operations, every backend, and the peers that are installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from megabiomed.kernels import document_attention as attention
from megabiomed.kernels import linear_cross_entropy as loss
from megabiomed.kernels import rms_norm as norm
from megabiomed.kernels import swiglu
from megabiomed.kernels.dispatch import Backend, Choice, Site, site_on
from megabiomed.kernels.documents import documents_of_lengths
from megabiomed.kernels.rope import apply_rope, rope_table

EPS = 1e-5
Forward = Callable[[], Tensor | tuple[Tensor, ...]]


@dataclass(frozen=True)
class Shapes:
    """Documents of one micro-batch, one layer's sizes, the vocabulary."""

    documents: list[int]
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    dtype: torch.dtype
    device: torch.device
    deterministic: bool = False

    @property
    def tokens(self) -> int:
        """t."""
        return sum(self.documents)

    @property
    def hidden(self) -> int:
        """h."""
        return self.heads * self.head_dim

    def random(self, *shape: int, scale: float = 1.0) -> Tensor:
        """A leaf with values of this scale."""
        values = torch.randn(shape, device=self.device) * scale
        return values.to(self.dtype).requires_grad_()


@dataclass(frozen=True)
class Work:
    """The least that forward and backward must do: floating-point operations and bytes of memory traffic."""

    forward_flops: float
    backward_flops: float
    forward_bytes: float
    backward_bytes: float


@dataclass(frozen=True)
class Case:
    """One operation: its backends, calls by name, inputs that take gradients, least work."""

    op: str
    label: str
    backends: tuple[Backend, ...]
    site: Site
    choice: Choice
    calls: Mapping[str, Forward]
    leaves: list[Tensor]
    work: Work
    peers: dict[str, tuple[Forward, str]] = field(default_factory=dict)


def attention_case(shapes: Shapes) -> Case:
    """RoPE and attention of a fused projection."""
    s, documents = shapes, documents_of_lengths(shapes.documents, shapes.device)
    heads = attention.Heads(s.heads, s.kv_heads)
    qkv = s.random(s.tokens, (s.heads + 2 * s.kv_heads) * s.head_dim)
    cos, sin = (x[: s.tokens] for x in rope_table(s.tokens, s.head_dim, 10000.0, s.device))
    site = site_on(s.device, s.dtype, s.head_dim, s.deterministic)

    def call(backend: str) -> Tensor:
        return attention.rope_attention(qkv, cos, sin, documents, heads, backend=backend, deterministic=s.deterministic)

    def causal() -> Tensor:
        q, k, v = attention.split_heads(qkv, heads)
        parts = [x.transpose(0, 1)[None] for x in (apply_rope(q, cos, sin), apply_rope(k, cos, sin), v)]
        return F.scaled_dot_product_attention(*parts, is_causal=True, enable_gqa=s.heads != s.kv_heads)

    pairs = sum(n * (n + 1) // 2 for n in s.documents)  # (query, key) pairs that see each other
    flops, item = 4.0 * pairs * s.head_dim * s.heads, s.dtype.itemsize
    moved = qkv.numel() * item + s.tokens * s.hidden * item
    calls = {b.name: partial(call, b.name) for b in attention.BACKENDS}
    peers: dict[str, tuple[Forward, str]] = {"sdpa causal": (causal, "ignores documents: another operation")}
    label = f"rope + attention {s.tokens} x {s.heads}/{s.kv_heads} x {s.head_dim}, {len(s.documents)} documents"
    chosen = attention.choice(site)
    work = Work(flops, 2.5 * flops, moved, 2 * moved)
    return Case("attention", label, attention.BACKENDS, site, chosen, calls, [qkv], work, peers)


def norm_case(shapes: Shapes) -> Case:
    """Residual add and RMSNorm."""
    s = shapes
    x, residual, weight = s.random(s.tokens, s.hidden), s.random(s.tokens, s.hidden), s.random(s.hidden)
    site = site_on(s.device, s.dtype, s.hidden)
    calls = {b.name: partial(norm.add_rms_norm, x, residual, weight, EPS, b.name) for b in norm.BACKENDS}
    size = x.numel() * s.dtype.itemsize
    peers: dict[str, tuple[Forward, str]] = {}
    if _liger(s):
        from liger_kernel.transformers.functional import liger_fused_add_rms_norm

        peers["liger"] = (partial(liger_fused_add_rms_norm, x, residual, weight, EPS, in_place=False), "peer")
    work = Work(0, 0, 4 * size, 4 * size)
    label = f"add + RMSNorm {s.tokens} x {s.hidden}"
    return Case("norm", label, norm.BACKENDS, site, norm.choice(site), calls, [x, residual, weight], work, peers)


def swiglu_case(shapes: Shapes) -> Case:
    """SwiGLU of the fused projection."""
    s = shapes
    gate_up = s.random(s.tokens, 2 * s.intermediate)
    site = site_on(s.device, s.dtype, s.hidden)
    calls = {b.name: partial(swiglu.swiglu, gate_up, b.name) for b in swiglu.BACKENDS}
    size = s.tokens * s.intermediate * s.dtype.itemsize
    peers: dict[str, tuple[Forward, str]] = {}
    if _liger(s):
        from liger_kernel.transformers.functional import liger_swiglu

        peers["liger"] = (lambda: liger_swiglu(*gate_up.chunk(2, -1)), "peer; it takes two tensors")
    work = Work(0, 0, 3 * size, 5 * size)
    label = f"SwiGLU {s.tokens} x {s.intermediate}"
    return Case("swiglu", label, swiglu.BACKENDS, site, swiglu.choice(site), calls, [gate_up], work, peers)


def loss_case(shapes: Shapes) -> Case:
    """Output head and cross entropy."""
    s = shapes
    hidden, weight = s.random(s.tokens, s.hidden), s.random(s.vocabulary, s.hidden, scale=0.02)
    labels = torch.randint(0, s.vocabulary, (s.tokens,), device=s.device)
    site = site_on(s.device, s.dtype, s.hidden)
    calls = {b.name: partial(loss.linear_cross_entropy, hidden, weight, labels, backend=b.name) for b in loss.BACKENDS}

    def unfused() -> Tensor:
        return F.cross_entropy((hidden @ weight.t()).float(), labels, reduction="sum")

    peers: dict[str, tuple[Forward, str]] = {"unfused": (unfused, "linear, then F.cross_entropy; holds all logits")}
    if _liger(s):
        from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

        peers["liger"] = (partial(liger_fused_linear_cross_entropy, hidden, weight, labels, reduction="sum"), "peer")
    flops = 2.0 * s.tokens * s.hidden * s.vocabulary
    moved = (hidden.numel() + weight.numel()) * s.dtype.itemsize
    label = f"linear + cross entropy {s.tokens} x {s.hidden} x {s.vocabulary}; forward includes the gradients"
    work = Work(3 * flops, 0, 2 * moved, 2 * moved)
    return Case("loss", label, loss.BACKENDS, site, loss.choice(site), calls, [hidden, weight], work, peers)


def _liger(shapes: Shapes) -> bool:
    return shapes.device.type == "cuda" and find_spec("liger_kernel") is not None


CASES = {"attention": attention_case, "norm": norm_case, "swiglu": swiglu_case, "loss": loss_case}
