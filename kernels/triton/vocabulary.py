"""Reductions over one tensor rank's part of the vocabulary in Triton, and the gradient of the logits in place."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from megabiomed.kernels.triton.launch import WIDE, Pointer, Scalar, wide

BLOCK = 4096


@triton.jit
def vocabulary_statistics(
    L: Pointer,
    TARGET: Pointer,
    LSE: Pointer,
    OWN: Pointer,
    SIZE: Scalar,
    stride: Scalar,
    B: tl.constexpr,
    ACC: tl.constexpr,
) -> None:
    """One read of a row: LSE = log sum exp, OWN = the target's logit or 0 when another rank has it."""
    row = tl.program_id(0).to(tl.int64)
    highest = tl.full([B], -1e30, ACC)
    total = tl.zeros([B], ACC)
    # A softmax of its own for each of the B lanes; they are combined once, after the loop. Reducing over the lanes in every
    # turn would synchronise all warps of the program each time.
    for first in range(0, SIZE, B):
        column = first + tl.arange(0, B)
        x = tl.load(L + row * stride + column, mask=column < SIZE, other=-float("inf")).to(ACC)
        higher = tl.maximum(highest, x)
        total = total * tl.exp(highest - higher) + tl.exp(x - higher)
        highest = higher
    top = tl.max(highest, 0)
    total_of_row = tl.sum(total * tl.exp(highest - top), 0)
    target = tl.load(TARGET + row)
    mine = (target >= 0) & (target < SIZE)
    own = tl.load(L + row * stride + tl.where(mine, target, 0), mask=mine, other=0.0).to(ACC)
    tl.store(LSE + row, top + tl.log(total_of_row))
    tl.store(OWN + row, own)


@triton.jit
def vocabulary_gradient(
    L: Pointer,
    TARGET: Pointer,
    LSE: Pointer,
    SOFTMAX_WEIGHT: Pointer,
    LABEL_WEIGHT: Pointer,
    SIZE: Scalar,
    stride: Scalar,
    B: tl.constexpr,
    ACC: tl.constexpr,
) -> None:
    """L = SOFTMAX_WEIGHT exp(L - LSE) - LABEL_WEIGHT [column == TARGET]."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * B + tl.arange(0, B)
    at = L + row * stride + column
    x = tl.load(at, mask=column < SIZE, other=0.0).to(ACC)
    p = tl.exp(x - tl.load(LSE + row)) * tl.load(SOFTMAX_WEIGHT + row)
    p -= tl.where(column == tl.load(TARGET + row), tl.load(LABEL_WEIGHT + row), 0.0)
    tl.store(at, p.to(L.dtype.element_ty), mask=column < SIZE)


class TritonChunkOps:
    """See `megabiomed.kernels.linear_cross_entropy.ChunkOps`."""

    def statistics(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """See `ChunkOps`."""
        rows, v = logits.shape
        lse = torch.empty(rows, dtype=wide(logits), device=logits.device)
        own = torch.zeros_like(lse)
        if v == 0:
            return lse.fill_(-torch.inf), own
        block = min(BLOCK, triton.next_power_of_2(v))
        vocabulary_statistics[(rows,)](
            logits, target, lse, own, v, logits.stride(0), block, WIDE[lse.dtype], num_warps=8
        )
        return lse, own

    def gradient(
        self, logits: Tensor, target: Tensor, lse: Tensor, softmax_weight: Tensor, label_weight: Tensor
    ) -> Tensor:
        """See `ChunkOps`; overwrites the logits."""
        rows, v = logits.shape
        if v == 0:
            return logits
        block = min(BLOCK, triton.next_power_of_2(v))
        vocabulary_gradient[(rows, triton.cdiv(v, block))](
            logits,
            target,
            lse,
            softmax_weight,
            label_weight,
            v,
            logits.stride(0),
            block,
            WIDE[wide(logits)],
            num_warps=8,
        )
        return logits
