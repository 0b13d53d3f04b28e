"""Launches of the document attention kernels, and the autograd that they share with the Hopper kernels (kernels/gluon/)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
import triton
from torch import Tensor

from megabiomed.ground.errors import ConfigError
from megabiomed.kernels.dispatch import site_of
from megabiomed.kernels.documents import Documents
from megabiomed.kernels.triton import document_attention as kernels
from megabiomed.kernels.triton.tiles import tiles_for

LOG2E = 1.4426950408889634
ROWS = 64  # of the two kernels without a loop
MIN_COLUMNS = 16  # of a tile that the tensor cores multiply


def _padded(d: int) -> int:
    """Columns of a tile of heads of d elements: Triton's blocks are powers of two."""
    return max(MIN_COLUMNS, triton.next_power_of_2(d))


class Passes(NamedTuple):
    """The forward and backward launches of a family of kernels; arguments as `_forward` and `_backward` here."""

    forward: Callable[..., tuple[Tensor, Tensor]]
    backward: Callable[..., None]


def _forward(
    qkv: tuple[Tensor, Tensor, Tensor],
    rotated: tuple[Tensor, Tensor] | None,
    documents: Documents,
    cos: Tensor,
    sin: Tensor,
) -> tuple[Tensor, Tensor]:
    """(o [t, hq, d], lse [hq, t]) of q, k, v; `rotated` receives the rotated q and k, None means no RoPE."""
    q, k, v = qkv
    tokens, heads, d = q.shape
    kv_heads, padded = k.size(1), _padded(d)
    out = torch.empty(tokens, heads, d, dtype=q.dtype, device=q.device)
    lse = torch.empty(heads, tokens, dtype=torch.float32, device=q.device)
    queries, keys = rotated or (q, k)
    if rotated:
        rotate(k, keys, cos, sin, 1.0)
    tile = tiles_for(site_of(q).arch, padded, q.dtype).forward
    tensors = (q, queries, keys, v, out, lse, documents.start, cos, sin)
    numbers = (*_row_strides(q, queries, keys, v, out), tokens, LOG2E / math.sqrt(d))
    constants = (heads, kv_heads, d, padded, tile.m, tile.n, rotated is not None)
    launch = kernels.attention_forward[(triton.cdiv(tokens, tile.m), heads)]
    launch(*tensors, *numbers, *constants, num_warps=tile.warps, num_stages=tile.stages)
    return out, lse


def _backward(
    do: Tensor, saved: tuple[Tensor, ...], gradients: tuple[Tensor, Tensor, Tensor], documents: Documents, rope: bool
) -> None:
    """Fill the gradients of q, k, v; `saved` is (q, k, v, o, lse, cos, sin) with q and k as the forward kernel used them."""
    q, k, v, out, lse, cos, sin = saved
    dq, dk, dv = gradients
    tokens, heads, d = q.shape
    kv_heads, padded = k.size(1), _padded(d)
    do = dense_heads(do)
    delta = torch.empty_like(lse)
    fill_delta(out, do, delta)
    tiles = tiles_for(site_of(q).arch, padded, q.dtype)
    scale = 1.0 / math.sqrt(d)
    sizes = (tokens, LOG2E * scale, scale, heads, kv_heads, d, padded)
    tile = tiles.backward_kv
    tensors: tuple[Tensor, ...] = (q, k, v, do, dk, dv, lse, delta, documents.start, documents.end, cos, sin)
    strides = _row_strides(q, k, v, do, dk, dv)
    launch = kernels.attention_backward_kv[(triton.cdiv(tokens, tile.n), kv_heads)]
    launch(*tensors, *strides, *sizes, tile.m, tile.n, rope, num_warps=tile.warps, num_stages=tile.stages)
    tile = tiles.backward_q
    tensors = (q, k, v, do, dq, lse, delta, documents.start, cos, sin)
    strides = _row_strides(q, k, v, do, dq)
    launch = kernels.attention_backward_q[(triton.cdiv(tokens, tile.m), heads)]
    launch(*tensors, *strides, *sizes, tile.m, tile.n, rope, num_warps=tile.warps, num_stages=tile.stages)


def _row_strides(*tensors: Tensor) -> tuple[int, ...]:
    """Elements from one token to the next, of each tensor."""
    return tuple(x.stride(0) for x in tensors)


def fill_delta(out: Tensor, do: Tensor, delta: Tensor) -> None:
    """delta [heads, t or more] = rowsum(out * do) of [t, heads, d]."""
    tokens, heads, d = out.shape
    padded = _padded(d)
    kernels.attention_delta[(triton.cdiv(tokens, ROWS), heads)](
        out, do, delta, out.stride(0), do.stride(0), delta.stride(0), tokens, d, padded, ROWS
    )


def rotate(x: Tensor, out: Tensor, cos: Tensor, sin: Tensor, sign: float) -> None:
    """out = x [t, heads, d] rotated by +/- the angles; out may be x."""
    tokens, heads, d = x.shape
    padded = _padded(d)
    kernels.rope[(triton.cdiv(tokens, ROWS), heads)](
        x, out, cos, sin, x.stride(0), out.stride(0), tokens, sign, d, padded, ROWS
    )


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, documents: Documents, passes: Passes) -> Tensor:
        none = q.new_empty(0, dtype=torch.float32)
        out, lse = passes.forward((q, k, v), None, documents, none, none)
        ctx.save_for_backward(q, k, v, out, lse, none, none)
        ctx.documents, ctx.passes = documents, passes
        return out

    @staticmethod
    def backward(ctx: Any, do: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        saved = ctx.saved_tensors
        dq, dk, dv = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in saved[:3])
        ctx.passes.backward(do, saved, (dq, dk, dv), ctx.documents, rope=False)
        return dq, dk, dv, None, None


class _RopeAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        cos: Tensor,
        sin: Tensor,
        documents: Documents,
        heads: tuple[int, int],
        in_place: bool,
        passes: Passes,
    ) -> Tensor:
        q, k, v = split_heads(qkv, heads)
        rotated = (q, k) if in_place else (torch.empty_like(q), torch.empty_like(k))
        out, lse = passes.forward((q, k, v), rotated, documents, cos, sin)
        ctx.save_for_backward(*rotated, v, out, lse, cos, sin)
        ctx.documents = documents
        ctx.heads = heads
        ctx.passes = passes
        return out.flatten(1)

    @staticmethod
    def backward(ctx: Any, do: Tensor) -> tuple[Tensor | None, ...]:
        saved, (heads, kv_heads) = ctx.saved_tensors, ctx.heads
        out = saved[3]
        gradient = out.new_empty(out.size(0), (heads + 2 * kv_heads) * out.size(2))
        ctx.passes.backward(do.view_as(out), saved, split_heads(gradient, ctx.heads), ctx.documents, rope=True)
        return gradient, None, None, None, None, None, None


def split_heads(qkv: Tensor, heads: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Views q [t, hq, d], k and v [t, hkv, d] of [t, (hq + 2 hkv) d]."""
    query_heads, kv_heads = heads
    parts = qkv.unflatten(1, (query_heads + 2 * kv_heads, -1)).split([query_heads, kv_heads, kv_heads], dim=1)
    return parts[0], parts[1], parts[2]


def dense_heads(x: Tensor) -> Tensor:
    """x itself when each token's heads are adjacent in memory, otherwise a copy."""
    return x if x.stride(2) == 1 and x.stride(1) == x.size(2) else x.contiguous()


TRITON = Passes(_forward, _backward)


def document_attention(
    query: Tensor, key: Tensor, value: Tensor, documents: Documents, passes: Passes = TRITON
) -> Tensor:
    """See `megabiomed.kernels.document_attention`."""
    _check_size(query)
    inputs = (dense_heads(x) for x in (query, key, value))
    return cast(Tensor, _Attention.apply(*inputs, documents, passes))


def rope_attention(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    documents: Documents,
    heads: tuple[int, int],
    in_place: bool,
    passes: Passes = TRITON,
) -> Tensor:
    """See `megabiomed.kernels.document_attention`."""
    _check_size(qkv)
    qkv = qkv if qkv.stride(1) == 1 else qkv.contiguous()
    angles = (cos.contiguous(), sin.contiguous())
    return cast(Tensor, _RopeAttention.apply(qkv, *angles, documents, heads, in_place, passes))


def _check_size(x: Tensor) -> None:
    # The kernels compute row offsets in 32 bits, which saves a register per row; beyond 2^31 elements they would wrap.
    if x.size(0) * x.stride(0) >= 2**31:
        raise ConfigError(
            "a micro-batch is too large for the attention kernel's 32-bit offsets",
            got=f"{x.size(0)} tokens of {x.stride(0)} elements",
            expected="less than 2^31 elements",
            do="lower data.micro_batch_size or set kernels.attention to another backend",
        )
