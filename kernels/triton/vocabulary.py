"""Losses from the logits of a chunk in Triton, and their gradient in place: in one kernel, or in two around an exchange."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from megabiomed.kernels.loss_chunks import IGNORE_INDEX
from megabiomed.kernels.triton.launch import WIDE, Pointer, Scalar, programs, wide

BLOCK = 4096
LOSS_BLOCK, LOSS_WARPS = 8192, 16


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
        e = tl.exp(-tl.abs(x - highest))  # of the smaller one; that of the larger one is 1
        total = tl.where(x > highest, total * e + 1.0, total + e)
        highest = tl.maximum(highest, x)
    top = tl.max(highest, 0)
    total_of_row = tl.sum(total * tl.exp(highest - top), 0)
    target = tl.load(TARGET + row)
    mine = (target >= 0) & (target < SIZE)
    own = tl.load(L + row * stride + tl.where(mine, target, 0), mask=mine, other=0.0).to(ACC)
    tl.store(LSE + row, top + tl.log(total_of_row))
    tl.store(OWN + row, own)


@triton.jit
def loss_and_gradient(
    L: Pointer,
    TARGET: Pointer,
    LOSS: Pointer,
    SIZE: Scalar,
    stride: Scalar,
    z_loss: Scalar,
    scale: Scalar,
    IGNORE: tl.constexpr,
    B: tl.constexpr,
    ACC: tl.constexpr,
) -> None:
    """LOSS of a row of the whole vocabulary, and L = the gradient of scale * LOSS; the second read comes from the cache."""
    line = L + tl.program_id(0).to(tl.int64) * stride
    lane = tl.arange(0, B)
    # Read before the reductions, whose barriers keep every warp's writes behind it.
    target = tl.load(TARGET + tl.program_id(0))
    mine = (target >= 0) & (target < SIZE)
    own = tl.load(line + tl.where(mine, target, 0), mask=mine, other=0.0).to(ACC)
    highest = tl.full([B], -1e30, ACC)
    total = tl.zeros([B], ACC)
    for first in range(0, SIZE, B):
        x = tl.load(line + first + lane, mask=first + lane < SIZE, other=-float("inf")).to(ACC)
        e = tl.exp(-tl.abs(x - highest))  # of the smaller one; that of the larger one is 1
        total = tl.where(x > highest, total * e + 1.0, total + e)
        highest = tl.maximum(highest, x)
    top = tl.max(highest, 0)
    lse = top + tl.log(tl.sum(total * tl.exp(highest - top), 0))
    kept = target != IGNORE
    tl.store(LOSS + tl.program_id(0), tl.where(kept, lse - own + z_loss * lse * lse, 0.0))
    label_weight = tl.where(kept, scale, 0.0).to(ACC)
    weight = label_weight * (1.0 + 2.0 * z_loss * lse)
    for first in range(0, SIZE, B):
        column = first + lane
        x = tl.load(line + column, mask=column < SIZE, other=0.0).to(ACC)
        p = tl.exp(x - lse) * weight - tl.where(column == target, label_weight, 0.0)
        tl.store(line + column, p.to(L.dtype.element_ty), mask=column < SIZE)


@triton.jit
def rescale_unless_one(
    X: Pointer, FACTOR: Pointer, N: Scalar, BLOCKS: Scalar, B: tl.constexpr, ACC: tl.constexpr
) -> None:
    """X = X FACTOR; a factor of 1 costs one read of it."""
    factor = tl.load(FACTOR).to(ACC)
    if factor != 1.0:
        for block in range(tl.program_id(0), BLOCKS, tl.num_programs(0)):
            at = tl.cast(block, tl.int64) * B + tl.arange(0, B)
            x = tl.load(X + at, mask=at < N, other=0.0).to(ACC)
            tl.store(X + at, (x * factor).to(X.dtype.element_ty), mask=at < N)


@triton.jit
def vocabulary_gradient(
    L: Pointer,
    TARGET: Pointer,
    LSE: Pointer,
    SOFTMAX_WEIGHT: Pointer,
    LABEL_WEIGHT: Pointer,
    SIZE: Scalar,
    stride: Scalar,
    BLOCKS: Scalar,
    B: tl.constexpr,
    ACC: tl.constexpr,
) -> None:
    """L = SOFTMAX_WEIGHT exp(L - LSE) - LABEL_WEIGHT [column == TARGET]."""
    row = (tl.program_id(0) // BLOCKS).to(tl.int64)
    column = tl.program_id(0) % BLOCKS * B + tl.arange(0, B)
    at = L + row * stride + column
    x = tl.load(at, mask=column < SIZE, other=0.0).to(ACC)
    p = tl.exp(x - tl.load(LSE + row)) * tl.load(SOFTMAX_WEIGHT + row)
    p -= tl.where(column == tl.load(TARGET + row), tl.load(LABEL_WEIGHT + row), 0.0)
    tl.store(at, p.to(L.dtype.element_ty), mask=column < SIZE)


class TritonChunkOps:
    """See `megabiomed.kernels.loss_chunks.ChunkOps`."""

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
        blocks = triton.cdiv(v, block)
        vocabulary_gradient[(rows * blocks,)](
            logits,
            target,
            lse,
            softmax_weight,
            label_weight,
            v,
            logits.stride(0),
            blocks,
            block,
            WIDE[wide(logits)],
            num_warps=8,
        )
        return logits

    def loss_and_gradient(self, logits: Tensor, labels: Tensor, z_loss: float, scale: float) -> tuple[Tensor, Tensor]:
        """See `ChunkOps`; overwrites the logits."""
        rows, v = logits.shape
        losses = torch.empty(rows, dtype=wide(logits), device=logits.device)
        block = min(LOSS_BLOCK, triton.next_power_of_2(v))
        constants = (IGNORE_INDEX, block, WIDE[losses.dtype])
        loss_and_gradient[(rows,)](
            logits, labels, losses, v, logits.stride(0), z_loss, scale, *constants, num_warps=LOSS_WARPS
        )
        return losses, logits

    def rescale(self, gradient: Tensor, factor: Tensor) -> None:
        """See `ChunkOps`."""
        n = gradient.numel()
        blocks = triton.cdiv(n, BLOCK)
        launch = rescale_unless_one[(programs(gradient, max(1, blocks)),)]
        launch(gradient, factor, n, blocks, BLOCK, WIDE[wide(gradient)], num_warps=8)
