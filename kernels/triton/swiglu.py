"""SwiGLU in Triton on the fused projection: forward one pass; backward writes both gradients into one buffer."""

from __future__ import annotations

from typing import Any, cast

import torch
import triton
import triton.language as tl
from torch import Tensor

from megabiomed.kernels.triton.launch import WIDE, Pointer, Scalar, wide

BLOCK = 1024


@triton.jit
def swiglu_forward(GU: Pointer, H: Pointer, N: Scalar, BLOCKS: Scalar, B: tl.constexpr, ACC: tl.constexpr) -> None:
    """H = silu(gate) up of rows [gate | up]."""
    # Neighbouring programs take neighbouring blocks of a row: programs that run together then use the same pages of memory.
    row = (tl.program_id(0) // BLOCKS).to(tl.int64)
    column = tl.program_id(0) % BLOCKS * B + tl.arange(0, B)
    inside = column < N
    gate = tl.load(GU + row * 2 * N + column, mask=inside, other=0.0).to(ACC)
    up = tl.load(GU + row * 2 * N + N + column, mask=inside, other=0.0).to(ACC)
    h = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(H + row * N + column, h.to(H.dtype.element_ty), mask=inside)


@triton.jit
def swiglu_backward(
    GU: Pointer, DH: Pointer, DGU: Pointer, N: Scalar, BLOCKS: Scalar, B: tl.constexpr, ACC: tl.constexpr
) -> None:
    """DGU = [dgate | dup]; DGU may be GU."""
    row = (tl.program_id(0) // BLOCKS).to(tl.int64)
    column = tl.program_id(0) % BLOCKS * B + tl.arange(0, B)
    inside = column < N
    at = row * 2 * N + column
    gate = tl.load(GU + at, mask=inside, other=0.0).to(ACC)
    up = tl.load(GU + at + N, mask=inside, other=0.0).to(ACC)
    dh = tl.load(DH + row * N + column, mask=inside, other=0.0).to(ACC)
    # Computed again: keeping silu(gate) from the forward pass would be one more tensor written and read.
    sigmoid = 1.0 / (1.0 + tl.exp(-gate))
    dgate = dh * up * sigmoid * (1.0 + gate * (1.0 - sigmoid))
    tl.store(DGU + at, dgate.to(DGU.dtype.element_ty), mask=inside)
    tl.store(DGU + at + N, (dh * gate * sigmoid).to(DGU.dtype.element_ty), mask=inside)


def _blocks(n: int) -> tuple[int, int]:
    """(size, number) of the blocks of a row."""
    block = min(BLOCK, triton.next_power_of_2(n))
    return block, triton.cdiv(n, block)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        rows, n = gate_up.size(0), gate_up.size(1) // 2
        out = gate_up.new_empty(rows, n)
        block, blocks = _blocks(n)
        swiglu_forward[(rows * blocks,)](gate_up, out, n, blocks, block, WIDE[wide(gate_up)])
        ctx.save_for_backward(gate_up)
        return out

    @staticmethod
    def backward(ctx: Any, dh: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        rows, n = gate_up.size(0), gate_up.size(1) // 2
        gradient = torch.empty_like(gate_up)
        block, blocks = _blocks(n)
        tensors = (gate_up, dh.contiguous(), gradient)
        swiglu_backward[(rows * blocks,)](*tensors, n, blocks, block, WIDE[wide(gate_up)])
        return gradient


def swiglu(gate_up: Tensor) -> Tensor:
    """See `megabiomed.kernels.swiglu`."""
    flat = gate_up.reshape(-1, gate_up.size(-1)).contiguous()
    return cast(Tensor, _SwiGLU.apply(flat)).view(*gate_up.shape[:-1], -1)
