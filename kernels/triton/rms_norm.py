"""RMSNorm with residual add in Triton: one pass over each row forward, one backward; weight gradients without atomics."""

from __future__ import annotations

from typing import Any, cast

import torch
import triton
import triton.language as tl
from torch import Tensor

from megabiomed.kernels.triton.launch import WIDE, Pointer, Scalar, programs, warps_for, wide

SUM_TILE = (64, 16)
"""Rows and columns of partial sums that a program adds up at a time."""


def stages_for(block: int) -> int:
    """Rows of each tensor that a program of the backward pass holds; those ahead take 6 bytes a value of shared memory."""
    return 2 if block <= 8192 else 1


@triton.jit
def rms_norm_forward(
    X: Pointer,
    R: Pointer,
    W: Pointer,
    Y: Pointer,
    S: Pointer,
    RSTD: Pointer,
    N: Scalar,
    eps: Scalar,
    B: tl.constexpr,
    ADD: tl.constexpr,
    ACC: tl.constexpr,
) -> None:
    """S = X + R, Y = S rstd(S) W."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, B)
    inside = column < N
    x = tl.load(X + row * N + column, mask=inside, other=0.0).to(ACC)
    if ADD:
        x += tl.load(R + row * N + column, mask=inside, other=0.0).to(ACC)
        # The row is normalised as the stream stores it, rounded, because the backward pass will read that.
        stored = x.to(S.dtype.element_ty)
        tl.store(S + row * N + column, stored, mask=inside)
        x = stored.to(ACC)
    rstd = 1.0 / tl.sqrt(tl.sum(x * x, 0) / N + eps)
    tl.store(RSTD + row, rstd)
    w = tl.load(W + column, mask=inside, other=0.0).to(ACC)
    tl.store(Y + row * N + column, (x * rstd * w).to(Y.dtype.element_ty), mask=inside)


@triton.jit
def rms_norm_backward(
    DY: Pointer,
    DS: Pointer,
    S: Pointer,
    W: Pointer,
    RSTD: Pointer,
    DX: Pointer,
    DW: Pointer,
    T: Scalar,
    N: Scalar,
    B: tl.constexpr,
    ADD: tl.constexpr,
    STAGES: tl.constexpr,
    ACC: tl.constexpr,
) -> None:
    """DX = rstd (w dy - s rstd^2 mean(w dy s)) [+ DS]; each program sums its rows of dW into its own row of DW."""
    # Not added to one dW by atomics: their order changes, and with it the last bits of the gradient.
    program = tl.program_id(0)
    column = tl.arange(0, B)
    inside = column < N
    w = tl.load(W + column, mask=inside, other=0.0).to(ACC)
    dw = tl.zeros([B], ACC)
    # The next row is on its way into shared memory while this one is reduced. Programs that run together take rows that
    # lie together.
    for row in tl.range(program, T, tl.num_programs(0), num_stages=STAGES):
        at = tl.cast(row, tl.int64) * N + column
        s = tl.load(S + at, mask=inside, other=0.0).to(ACC)
        dy = tl.load(DY + at, mask=inside, other=0.0).to(ACC)
        rstd = tl.load(RSTD + row)
        g = dy * w
        dx = (g - s * (tl.sum(g * s, 0) / N * rstd * rstd)) * rstd
        if ADD:
            dx += tl.load(DS + at, mask=inside, other=0.0).to(ACC)
        tl.store(DX + at, dx.to(DX.dtype.element_ty), mask=inside)
        dw += dy * s * rstd
    tl.store(DW + program * N + column, dw, mask=inside)


@triton.jit
def sum_of_partials(DW: Pointer, OUT: Pointer, COUNT: Scalar, N: Scalar, R: tl.constexpr, B: tl.constexpr) -> None:
    """OUT = the sum of the rows of DW, in their order, for a block of columns."""
    column = tl.program_id(0) * B + tl.arange(0, B)
    total = tl.zeros([R, B], DW.dtype.element_ty)
    for first in range(0, COUNT, R):
        row = first + tl.arange(0, R)
        inside = (row < COUNT)[:, None] & (column < N)[None, :]
        total += tl.load(DW + row[:, None] * N + column[None, :], mask=inside, other=0.0)
    tl.store(OUT + column, tl.sum(total, 0).to(OUT.dtype.element_ty), mask=column < N)


def _forward(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """(y, stream, rstd) of [rows, n]; the stream is x itself without a residual."""
    rows, n = x.shape
    block, add = triton.next_power_of_2(n), residual is not None
    y, stream = torch.empty_like(x), torch.empty_like(x) if add else x
    rstd = torch.empty(rows, dtype=wide(x), device=x.device)
    tensors = (x, residual if add else x, weight, y, stream, rstd)  # without a residual its pointer is not followed
    rms_norm_forward[(rows,)](*tensors, n, eps, block, add, WIDE[rstd.dtype], num_warps=warps_for(block))
    return y, stream, rstd


def _backward(dy: Tensor, ds: Tensor | None, stream: Tensor, weight: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor]:
    """(dx, dw); dx holds the gradient of the stream too when there is one."""
    rows, n = stream.shape
    block, count = triton.next_power_of_2(n), programs(stream, rows)
    dx, dw = torch.empty_like(stream), torch.empty(count, n, dtype=rstd.dtype, device=stream.device)
    dy = dy.contiguous()
    tensors = (dy, dy if ds is None else ds.contiguous(), stream, weight, rstd, dx, dw)
    constants = (block, ds is not None, stages_for(block), WIDE[rstd.dtype])
    rms_norm_backward[(count,)](*tensors, rows, n, *constants, num_warps=warps_for(block))
    dweight = torch.empty_like(weight)
    sum_of_partials[(triton.cdiv(n, SUM_TILE[1]),)](dw, dweight, count, n, *SUM_TILE, num_warps=4)
    return dx, dweight


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        y, stream, rstd = _forward(x, None, weight, eps)
        ctx.save_for_backward(stream, weight, rstd)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None]:
        return *_backward(dy, None, *ctx.saved_tensors), None


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        y, stream, rstd = _forward(x, residual, weight, eps)
        ctx.save_for_backward(stream, weight, rstd)
        return y, stream

    @staticmethod
    def backward(ctx: Any, dy: Tensor, ds: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        dx, dw = _backward(dy, ds, *ctx.saved_tensors)
        return dx, dx, dw, None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm of [..., n]; see `megabiomed.kernels.rms_norm`."""
    flat = x.reshape(-1, x.size(-1)).contiguous()
    return cast(Tensor, _Norm.apply(flat, weight.contiguous(), eps)).view(x.shape)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(RMSNorm(x + residual), x + residual) of [..., n]; see `megabiomed.kernels.rms_norm`."""
    flat = [part.reshape(-1, x.size(-1)).contiguous() for part in (x, residual)]
    y, stream = cast(tuple[Tensor, Tensor], _AddNorm.apply(*flat, weight.contiguous(), eps))
    return y.view(x.shape), stream.view(x.shape)
