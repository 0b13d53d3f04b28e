"""Cross entropy of a linear layer without its logits: output head and loss in one, chunk by chunk, vocabulary-parallel.

Each tensor rank holds the rows [first, first + v) of the head. For a chunk of tokens it computes its logits, reduces them to
two numbers per token (log of the sum of exponentials, target's logit), exchanges those in one all-gather of 8 bytes per
token, and turns the logits into their gradient in place. The exchange of one chunk runs while the next is multiplied. The
gradients of the summed loss are complete after forward; backward only scales them: three products with the head, not four.

z-loss (PaLM, Chowdhery et al. 2022): z * lse^2 per token, which keeps the normaliser near 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
import torch.distributed as dist
from torch import Tensor

from megabiomed.kernels.dispatch import (
    AUTO,
    Backend,
    Choice,
    Site,
    choose,
    needs_cpu,
    needs_triton,
    serves_all,
    site_of,
)

IGNORE_INDEX = -100
SCALE_ROWS = 4096
"""Rows of a half-precision gradient that exist in fp32 at a time while it is scaled."""
# fp32 logits of a chunk: large enough for the matrix product to run at full speed, small against the logits of a
# micro-batch (8,192 tokens x 32,000 words: 1,000 MiB, and as much again for their gradient).
CHUNK_BYTES = {"cpu": 32 * 2**20, "cuda": 256 * 2**20}


@dataclass(frozen=True)
class Shard:
    """The part of the vocabulary on this tensor rank.

    Attributes:
        first: vocabulary id of the shard's first row.
        size: rows that belong to the vocabulary; rows after them are padding.
        group: ranks that share the vocabulary, None for one.
    """

    first: int
    size: int
    group: dist.ProcessGroup | None = None


class ChunkOps(Protocol):
    """What a backend does with the logits [n, v] of a chunk.

    `target` [n] is the label minus the shard's first id; a label of another rank is a number outside of 0 to v - 1.
    """

    def statistics(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """([n] log of the sum of exponentials, [n] logit of the target, or 0 when another rank has it), fp32."""

    def gradient(
        self, logits: Tensor, target: Tensor, lse: Tensor, softmax_weight: Tensor, label_weight: Tensor
    ) -> Tensor:
        """softmax_weight * exp(logits - lse) - label_weight * [column == target]; may overwrite `logits`."""


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    shard: Shard | None = None,
    *,
    z_loss: float = 0.0,
    chunk_tokens: int | None = None,
    backend: str = AUTO,
) -> Tensor:
    """Summed cross entropy of hidden @ weight^T.

    Args:
        hidden: [t, h], equal on the ranks of the shard's group. Its gradient is this rank's partial sum over the vocabulary:
            the caller sums it over the group.
        weight: [rows, h] of this rank.
        labels: [t] vocabulary ids, or IGNORE_INDEX for tokens without a target; equal on the ranks.
        z_loss: weight of the squared log-normaliser.
        chunk_tokens: tokens per chunk; None keeps a chunk's logits at 32 MiB (CPU) or 256 MiB (GPU).

    Returns:
        [1] fp32, equal on the ranks; 0 when no token has a target.
    """
    shard = shard or Shard(0, weight.size(0))
    ops = choice(site_of(hidden), backend).function
    rows = chunk_tokens or max(1, CHUNK_BYTES[hidden.device.type] // max(1, shard.size * 4))
    gradients = torch.is_grad_enabled()
    return cast(Tensor, _Loss.apply(hidden, weight, labels, shard, z_loss, rows, ops, gradients))


def reference(hidden: Tensor, weight: Tensor, labels: Tensor, z_loss: float = 0.0) -> Tensor:
    """The definition in plain torch, on the full vocabulary."""
    logits = hidden @ weight.t()  # [t, v]
    kept = labels != IGNORE_INDEX
    lse = logits.logsumexp(-1)  # [t]
    target = logits.gather(1, labels.clamp_min(0)[:, None])[:, 0]
    return ((lse - target + z_loss * lse.square()) * kept).sum().reshape(1)


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        shard: Shard,
        z_loss: float,
        rows: int,
        ops: ChunkOps,
        gradients: bool,
    ) -> Tensor:
        wanted = tuple(gradients and need for need in ctx.needs_input_grad[:2])
        head = _Head(hidden, weight, labels, shard, z_loss, ops, wanted)
        loss = head.run(rows)
        ctx.gradients, ctx.once = head.gradients, hidden.dtype != torch.float64
        return loss

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        assert ctx.gradients is not None, "the gradients are scaled in place: one backward for each forward"
        scaled = [None if gradient is None else _scaled(gradient, scale) for gradient in ctx.gradients]
        if ctx.once:
            ctx.gradients = None
        return *scaled, None, None, None, None, None, None


def _scaled(gradient: Tensor, scale: Tensor) -> Tensor:
    """gradient * scale, in place."""
    if gradient.dtype == torch.float64:
        return gradient * scale  # gradcheck asks several times for one forward
    if gradient.dtype == torch.float32:
        return gradient.mul_(scale)
    # The scale stays in fp32: rounded to bf16 it would shift every element in the same direction.
    for part in gradient.split(SCALE_ROWS):
        part.copy_(part.float().mul_(scale))
    return gradient


class _Head:
    """One evaluation of the loss."""

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        shard: Shard,
        z_loss: float,
        ops: ChunkOps,
        wanted: tuple[bool, ...],
    ) -> None:
        self.hidden = hidden.contiguous()
        self.weight = weight[: shard.size]
        self.labels = labels
        self.shard = shard
        self.z_loss = z_loss
        self.ops = ops
        self.dhidden = torch.empty_like(self.hidden) if wanted[0] else None
        self.dweight = torch.empty_like(weight, memory_format=torch.contiguous_format) if wanted[1] else None
        self.loss = torch.zeros(1, dtype=torch.float32, device=hidden.device)

    @property
    def gradients(self) -> tuple[Tensor | None, Tensor | None]:
        return self.dhidden, self.dweight

    def run(self, rows: int) -> Tensor:
        """Every chunk is finished after the next one has been multiplied; in between its exchange is on the way."""
        pending: _Chunk | None = None
        for start in range(0, self.hidden.size(0), rows):
            following = self._begin(slice(start, start + rows))
            if pending is not None:
                self._finish(pending)
            pending = following
        if pending is not None:
            self._finish(pending)
        return self.loss

    def _begin(self, where: slice) -> _Chunk:
        logits = self.hidden[where] @ self.weight.t()  # [n, v/tp]
        target = self.labels[where] - self.shard.first
        lse, own = self.ops.statistics(logits, target)
        return _Chunk(where, logits, target, lse, *_exchange(torch.stack((lse, own)), self.shard.group))

    def _finish(self, chunk: _Chunk) -> None:
        if chunk.work is not None:
            chunk.work.wait()
        lse = chunk.gathered[:, 0].logsumexp(0)  # [n]
        own = chunk.gathered[:, 1].sum(0)
        kept = self.labels[chunk.where] != IGNORE_INDEX
        losses = lse - own + self.z_loss * lse.square()
        self.loss += losses.masked_fill(~kept, 0.0).sum()
        if self.dhidden is None and self.dweight is None:
            return
        label_weight = kept.to(lse.dtype)
        softmax_weight = label_weight * (1.0 + 2.0 * self.z_loss * lse)
        gradient = self.ops.gradient(chunk.logits, chunk.target, lse, softmax_weight, label_weight)
        if self.dhidden is not None:
            torch.mm(gradient, self.weight, out=self.dhidden[chunk.where])
        if self.dweight is not None:
            # The first chunk writes and the others add, so the buffer needs no pass that zeroes it.
            filled, padding = self.dweight.split([self.shard.size, self.dweight.size(0) - self.shard.size])
            if chunk.where.start == 0:
                padding.zero_()
                torch.mm(gradient.t(), self.hidden[chunk.where], out=filled)
            else:
                filled.addmm_(gradient.t(), self.hidden[chunk.where])


@dataclass(frozen=True)
class _Chunk:
    where: slice
    logits: Tensor
    target: Tensor
    lse: Tensor
    gathered: Tensor
    work: Any


def _exchange(statistics: Tensor, group: dist.ProcessGroup | None) -> tuple[Tensor, Any]:
    """([ranks, 2, n], work to wait for) of this rank's [2, n]."""
    if group is None or group.size() == 1:
        return statistics.unsqueeze(0), None
    gathered = statistics.new_empty(2 * group.size(), statistics.size(1))
    work = dist.all_gather_into_tensor(gathered, statistics, group=group, async_op=True)
    return gathered.view(-1, *statistics.shape), work


class TorchChunkOps:
    """Chunk operations in plain torch."""

    def statistics(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """See `ChunkOps`."""
        wide = _wide(logits)
        return wide.logsumexp(-1), _own_logit(wide, target)

    def gradient(
        self, logits: Tensor, target: Tensor, lse: Tensor, softmax_weight: Tensor, label_weight: Tensor
    ) -> Tensor:
        """See `ChunkOps`."""
        p = (_wide(logits) - lse[:, None]).exp_().mul_(softmax_weight[:, None])
        return _minus_label(p, target, label_weight).to(logits.dtype)


class CpuChunkOps(TorchChunkOps):
    """The same in blocks of rows that stay in the cache, in place."""

    BLOCK_BYTES = 2**18  # of fp32 logits: fits the second-level cache of a core

    def statistics(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """See `ChunkOps`."""
        wide = _wide(logits)
        lse = torch.cat([part.logsumexp(-1) for part in wide.split(self._rows(wide))])
        return lse, _own_logit(wide, target)

    def gradient(
        self, logits: Tensor, target: Tensor, lse: Tensor, softmax_weight: Tensor, label_weight: Tensor
    ) -> Tensor:
        """See `ChunkOps`."""
        wide, rows = _wide(logits), self._rows(logits)
        shift = lse.masked_fill(label_weight == 0, torch.inf)  # a masked row becomes exp(-inf) = 0
        weighted = not torch.equal(softmax_weight, label_weight)  # only a z-loss makes them differ
        for part, shift_part, weight in zip(wide.split(rows), shift.split(rows), softmax_weight.split(rows)):
            part.sub_(shift_part[:, None]).exp_()
            if weighted:
                part.mul_(weight[:, None])
        return _minus_label(wide, target, label_weight).to(logits.dtype)

    def _rows(self, logits: Tensor) -> int:
        return max(1, self.BLOCK_BYTES // max(1, logits.size(1) * 4))


def _own_logit(logits: Tensor, target: Tensor) -> Tensor:
    mine = (target >= 0) & (target < logits.size(1))
    if logits.size(1) == 0:
        return torch.zeros(logits.size(0), dtype=logits.dtype, device=logits.device)
    picked = logits.gather(1, target.where(mine, 0)[:, None])[:, 0]
    return picked.where(mine, 0.0)


def _minus_label(p: Tensor, target: Tensor, label_weight: Tensor) -> Tensor:
    """p with label_weight taken from each row's own target column, in place."""
    mine = (target >= 0) & (target < p.size(1))
    if p.size(1):
        p.scatter_add_(1, target.where(mine, 0)[:, None], -label_weight.where(mine, 0.0)[:, None])
    return p


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def _triton() -> ChunkOps:
    from megabiomed.kernels.triton.vocabulary import TritonChunkOps

    return TritonChunkOps()


BACKENDS = (
    Backend("cpu", needs_cpu, CpuChunkOps, "blocks of rows that stay in the cache"),
    Backend("triton", needs_triton, _triton, "one read of the logits forward, one read and write backward"),
    Backend("torch", serves_all, TorchChunkOps, "torch's own operations"),
)


def choice(site: Site, wanted: str = AUTO) -> Choice:
    """The backend that serves a site, and why."""
    return choose("loss", BACKENDS, site, wanted)
