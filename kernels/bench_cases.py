"""What `megabiomed bench kernels` times: one layer's operations, every backend, and the peers that are installed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from megabiomed.kernels import adamw, swiglu
from megabiomed.kernels import document_attention as attention
from megabiomed.kernels import linear_cross_entropy as loss
from megabiomed.kernels import rms_norm as norm
from megabiomed.kernels.bench_peers import (
    Forward,
    Peer,
    adamw_peers,
    attention_peers,
    loss_peers,
    norm_peers,
    swiglu_peers,
)
from megabiomed.kernels.dispatch import Backend, Choice, Site, site_on
from megabiomed.kernels.documents import documents_of_lengths
from megabiomed.kernels.rope import rope_frequencies, rope_table

EPS = 1e-5


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
    """The minimum that forward and backward must do: floating-point operations and bytes of memory traffic."""

    forward_flops: float
    backward_flops: float
    forward_bytes: float
    backward_bytes: float


@dataclass(frozen=True)
class Case:
    """One operation: its backends, calls by name, inputs that take gradients (none: there is no backward), least work."""

    op: str
    label: str
    backends: tuple[Backend, ...]
    site: Site
    choice: Choice
    calls: Mapping[str, Forward]
    leaves: list[Tensor]
    work: Work
    peers: Mapping[str, Peer]


def attention_case(shapes: Shapes) -> Case:
    """RoPE and attention of a fused projection."""
    s, documents = shapes, documents_of_lengths(shapes.documents, shapes.device)
    heads = attention.Heads(s.heads, s.kv_heads)
    qkv = s.random(s.tokens, (s.heads + 2 * s.kv_heads) * s.head_dim)
    cos, sin = (x[: s.tokens] for x in rope_table(rope_frequencies(s.head_dim, 10000.0), s.tokens, s.device))
    site = site_on(s.device, s.dtype, s.head_dim, s.deterministic)

    def call(backend: str) -> Tensor:
        return attention.rope_attention(qkv, cos, sin, documents, heads, backend=backend, deterministic=s.deterministic)

    pairs = sum(n * (n + 1) // 2 for n in s.documents)  # (query, key) pairs that see each other
    flops, item = 4.0 * pairs * s.head_dim * s.heads, s.dtype.itemsize
    moved = qkv.numel() * item + s.tokens * s.hidden * item
    calls = {b.name: partial(call, b.name) for b in attention.BACKENDS}
    label = f"rope + attention {s.tokens} x {s.heads}/{s.kv_heads} x {s.head_dim}, {len(s.documents)} documents"
    work = Work(flops, 2.5 * flops, moved, 2 * moved)  # two products forward (Q K^T, P V), five backward
    peers = attention_peers(s, qkv, cos, sin)
    return Case("attention", label, attention.BACKENDS, site, attention.choice(site), calls, [qkv], work, peers)


def norm_case(shapes: Shapes) -> Case:
    """Residual add and RMSNorm."""
    s = shapes
    x, residual = s.random(s.tokens, s.hidden), s.random(s.tokens, s.hidden)
    weight = s.random(s.hidden)
    site = site_on(s.device, s.dtype, s.hidden)
    calls = {b.name: partial(norm.add_rms_norm, x, residual, weight, EPS, b.name) for b in norm.BACKENDS}
    size = x.numel() * s.dtype.itemsize
    # Forward reads both inputs and writes output and stream; backward reads dy, ds and the stream, and writes dx.
    work = Work(0, 0, 4 * size, 4 * size)
    label, peers = f"add + RMSNorm {s.tokens} x {s.hidden}", norm_peers(s, x, residual, weight, EPS)
    return Case("norm", label, norm.BACKENDS, site, norm.choice(site), calls, [x, residual, weight], work, peers)


def swiglu_case(shapes: Shapes) -> Case:
    """SwiGLU of the fused projection."""
    s = shapes
    gate_up = s.random(s.tokens, 2 * s.intermediate)
    gate, up = s.random(s.tokens, s.intermediate), s.random(s.tokens, s.intermediate)  # the peer's
    site = site_on(s.device, s.dtype, s.hidden)
    calls = {b.name: partial(swiglu.swiglu, gate_up, b.name) for b in swiglu.BACKENDS}
    size = s.tokens * s.intermediate * s.dtype.itemsize
    # Forward reads gate and up and writes one tensor; backward reads these two and dh, and writes two gradients.
    work = Work(0, 0, 3 * size, 5 * size)
    label, leaves = f"SwiGLU {s.tokens} x {s.intermediate}", [gate_up, gate, up]
    peers = swiglu_peers(s, gate, up)
    return Case("swiglu", label, swiglu.BACKENDS, site, swiglu.choice(site), calls, leaves, work, peers)


def loss_case(shapes: Shapes) -> Case:
    """Output head and cross entropy."""
    s = shapes
    hidden, weight = s.random(s.tokens, s.hidden), s.random(s.vocabulary, s.hidden, scale=0.02)
    labels = torch.randint(0, s.vocabulary, (s.tokens,), device=s.device)
    site = site_on(s.device, s.dtype, s.hidden)
    calls = {b.name: partial(loss.linear_cross_entropy, hidden, weight, labels, backend=b.name) for b in loss.BACKENDS}
    flops = 2.0 * s.tokens * s.hidden * s.vocabulary
    moved = (hidden.numel() + weight.numel()) * s.dtype.itemsize
    label = f"linear + cross entropy {s.tokens} x {s.hidden} x {s.vocabulary}; forward includes the gradients"
    work = Work(3 * flops, 0, 2 * moved, 2 * moved)  # the logits and both gradients
    peers = loss_peers(s, hidden, weight, labels)
    return Case("loss", label, loss.BACKENDS, site, loss.choice(site), calls, [hidden, weight], work, peers)


def adamw_case(shapes: Shapes) -> Case:
    """Scale, step and cast of one block's parameters with fp32 gradients."""
    s = shapes
    n = 4 * s.hidden**2 + 3 * s.hidden * s.intermediate
    master, gradient = torch.randn(n, device=s.device), torch.randn(n, device=s.device)
    first, second = torch.zeros(n, device=s.device), torch.zeros(n, device=s.device)
    shard = adamw.Shard(master, gradient, first, second, torch.empty(n, dtype=torch.bfloat16, device=s.device))
    rule, scale = adamw.Rule(1e-5, (0.9, 0.95), 1e-8, 0.1, 1), torch.ones(1, device=s.device)
    site = site_on(s.device, torch.float32, n)

    def call(backend: str) -> Tensor:
        adamw.adamw_step(shard, rule, scale, backend)
        return shard.copy

    calls = {b.name: partial(call, b.name) for b in adamw.BACKENDS}
    work, label = Work(0, 0, 30.0 * n, 0), f"AdamW on {n} parameters: scale, step, bf16 copy"
    peers = adamw_peers(s, shard, rule)
    return Case("adamw", label, adamw.BACKENDS, site, adamw.choice(site), calls, [], work, peers)


CASES = {
    "attention": attention_case,
    "norm": norm_case,
    "swiglu": swiglu_case,
    "loss": loss_case,
    "adamw": adamw_case,
}
