"""Casts to fp8 (e4m3) in Triton: rows with a scale each in one pass, and a matrix with one scale, straight or transposed."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from megabiomed.kernels.triton.launch import Pointer, Scalar

BLOCK = 4096  # elements of a row in registers; longer rows are read twice, the second time from the cache
TILE = 64
LARGEST = tl.constexpr(448.0)  # of e4m3
SMALLEST = tl.constexpr(1e-12)  # a row of zeros keeps a finite scale


@triton.jit
def cast_rows_e4m3(X: Pointer, Y: Pointer, S: Pointer, N: Scalar, stride: Scalar, B: tl.constexpr) -> None:
    """S = max |x| / 448 of a row, Y = x / S."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, B)
    most = tl.zeros([B], tl.float32)
    for first in range(0, N, B):
        x = tl.load(X + row * stride + first + at, mask=first + at < N, other=0.0).to(tl.float32)
        most = tl.maximum(most, tl.abs(x))
    scale = tl.maximum(tl.max(most, 0), SMALLEST) / LARGEST
    tl.store(S + row, scale)
    for first in range(0, N, B):
        inside = first + at < N
        x = tl.load(X + row * stride + first + at, mask=inside, other=0.0).to(tl.float32)
        y = tl.minimum(tl.maximum(x / scale, -LARGEST), LARGEST)
        tl.store(Y + row * N + first + at, y.to(Y.dtype.element_ty), mask=inside)


@triton.jit
def cast_matrix_e4m3(
    W: Pointer, Y: Pointer, S: Pointer, M: Scalar, N: Scalar, TURNED: tl.constexpr, B: tl.constexpr
) -> None:
    """Y [M, N] = W / S, or its transpose [N, M]."""
    row = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    column = tl.program_id(1).to(tl.int64) * B + tl.arange(0, B)
    inside = (row[:, None] < M) & (column[None, :] < N)
    w = tl.load(W + row[:, None] * N + column[None, :], mask=inside, other=0.0).to(tl.float32)
    y = tl.minimum(tl.maximum(w / tl.load(S), -LARGEST), LARGEST).to(Y.dtype.element_ty)
    if TURNED:
        tl.store(Y + column[:, None] * M + row[None, :], tl.trans(y), mask=tl.trans(inside))
    else:
        tl.store(Y + row[:, None] * N + column[None, :], y, mask=inside)


def cast_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """[m, n] as e4m3 [m, n] and the scale of each row, fp32 [m, 1]."""
    x = x if x.stride(1) == 1 else x.contiguous()
    y = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=x.device)
    scale = torch.empty(x.size(0), 1, dtype=torch.float32, device=x.device)
    block = min(BLOCK, triton.next_power_of_2(x.size(1)))
    cast_rows_e4m3[(x.size(0),)](x, y, scale, x.size(1), x.stride(0), block, num_warps=8)
    return y, scale


def cast_matrix(weight: Tensor, scale: Tensor, turned: bool) -> Tensor:
    """[m, n] / scale as e4m3 [m, n], or [n, m] where it is turned; scale is one fp32."""
    m, n = weight.shape
    weight = weight.contiguous()
    y = torch.empty((n, m) if turned else (m, n), dtype=torch.float8_e4m3fn, device=weight.device)
    cast_matrix_e4m3[(triton.cdiv(m, TILE), triton.cdiv(n, TILE))](weight, y, scale, m, n, turned, TILE, num_warps=4)
    return y
