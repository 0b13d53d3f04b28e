"""Launches of the Hopper kernels: tensor descriptors, tiles, padded row statistics."""

from __future__ import annotations

import math
from functools import partial

import torch
import triton
from torch import Tensor
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from megabiomed.kernels.documents import Documents
from megabiomed.kernels.gluon.backward import attention_backward_kv, attention_backward_q
from megabiomed.kernels.gluon.forward import attention_forward
from megabiomed.kernels.triton import attention_op
from megabiomed.kernels.triton.attention_op import LOG2E, Passes, dense_heads, fill_delta, rotate

ROWS, PART = 128, 64  # rows of a program and of a consumer, as in tiles.py
WARPS = 4  # of the first consumer; the second and the producer are started inside the kernel
HEAD_SIZES = (64, 128)
# (tile of the loop, ring stages) by head size, without spills; not chosen by time (docs/kernels.md).
FORWARD = {64: (128, 2), 128: (128, 2)}
BACKWARD_KV = {64: (64, 3), 128: (64, 2)}
BACKWARD_Q = {64: (128, 2), 128: (64, 3)}
GLUON_TYPES = {torch.bfloat16: gl.bfloat16, torch.float16: gl.float16, torch.float32: gl.float32}


def layout_of(box: tuple[int, ...], dtype: gl.dtype) -> gl.NVMMASharedLayout:
    """How a box lies in shared memory: swizzled for the tensor cores, row statistics in plain order."""
    if len(box) == 1:
        return gl.NVMMASharedLayout(swizzle_byte_width=0, element_bitwidth=32, rank=1)
    return gl.NVMMASharedLayout.get_default_for(list(box), dtype)


def _described(x: Tensor, *box: int) -> TensorDescriptor:
    """The descriptor of [t, heads, d] as a matrix [t, heads d], or of a vector."""
    flat = x.flatten(1) if x.dim() == 3 else x
    return TensorDescriptor.from_tensor(flat, list(box), layout_of(box, GLUON_TYPES[x.dtype]))


def _aligned(x: Tensor) -> Tensor:
    """x itself when the copy engine can read it (rows aligned to 16 bytes), otherwise a copy."""
    return x if x.data_ptr() % 16 == 0 and x.stride(0) * x.itemsize % 16 == 0 else x.contiguous()


def _forward(
    qkv: tuple[Tensor, Tensor, Tensor],
    rotated: tuple[Tensor, Tensor] | None,
    documents: Documents,
    cos: Tensor,
    sin: Tensor,
) -> tuple[Tensor, Tensor]:
    """As `attention_op`'s, with lse [hq, t padded to whole programs]."""
    q, k, v = qkv
    tokens, heads, d = q.shape
    programs = triton.cdiv(tokens, ROWS)
    queries, keys = rotated or (q, k)
    if rotated:
        rotate(k, keys, cos, sin, 1.0)
    out = torch.empty(tokens, heads, d, dtype=q.dtype, device=q.device)
    lse = torch.empty(heads, programs * ROWS, dtype=torch.float32, device=q.device)
    n, stages = FORWARD[d]
    boxes = (_described(_aligned(keys), n, d), _described(_aligned(v), n, d), _described(out, PART, d))
    tensors = (q, queries, *boxes, cos, sin, lse, documents.start)
    numbers = (q.stride(0), queries.stride(0), lse.stride(0), tokens, LOG2E / math.sqrt(d))
    constants = (heads, k.size(1), d, n, stages, rotated is not None)
    attention_forward[(programs, heads)](*tensors, *numbers, *constants, num_warps=WARPS)
    return out, lse


def _backward(
    do: Tensor, saved: tuple[Tensor, ...], gradients: tuple[Tensor, Tensor, Tensor], documents: Documents, rope: bool
) -> None:
    """As `attention_op`'s."""
    q, k, v, out, lse, cos, sin = saved
    dq, dk, dv = gradients
    tokens, heads, d = q.shape
    programs, kv_heads = triton.cdiv(tokens, ROWS), k.size(1)
    scale = 1.0 / math.sqrt(d)
    q, k, v, do = (_aligned(x) for x in (q, k, v, dense_heads(do)))
    delta = torch.zeros_like(lse)
    fill_delta(out, do, delta)
    common = (lse.stride(0), tokens, LOG2E * scale, scale, heads, kv_heads, d)
    m, stages = BACKWARD_KV[d]
    rows = ((q, m), (k, PART), (v, PART), (do, m), (dk, PART), (dv, PART))
    boxes = [_described(x, count, d) for x, count in rows]
    statistics = [_described(x.view(-1), m) for x in (lse, delta)]
    tensors = (*boxes, *statistics, documents.end, cos, sin)
    attention_backward_kv[(programs, kv_heads)](*tensors, *common, m, stages, rope, num_warps=WARPS)
    n, stages = BACKWARD_Q[d]
    boxes = [_described(x, count, d) for x, count in ((q, PART), (k, n), (v, n), (do, PART), (dq, PART))]
    tensors = (*boxes, lse, delta, documents.start, cos, sin)
    attention_backward_q[(programs, heads)](*tensors, *common, n, stages, rope, num_warps=WARPS)


HOPPER = Passes(_forward, _backward)
document_attention = partial(attention_op.document_attention, passes=HOPPER)
rope_attention = partial(attention_op.rope_attention, passes=HOPPER)
