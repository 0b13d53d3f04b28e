"""Cross entropy of a linear layer without its logits: output head and loss in one, chunk by chunk, vocabulary-parallel.

Each tensor rank holds the rows [first, first + v) of the head. For a chunk of tokens it computes its logits, reduces them to
two numbers per token (log of the sum of exponentials, target's logit), exchanges those in one all-gather of 8 bytes per
token, and turns the logits into their gradient in place. The exchange of one chunk runs while the next is multiplied. A rank
that holds the whole vocabulary has nothing to exchange: losses and gradient of a chunk come from one kernel.

The gradients are complete after forward, which is told the factor of the loss: three products with the head instead of
four, and nothing left for backward, unless the caller scales the loss once more.

z-loss (PaLM, Chowdhery et al. 2022): z * lse^2 per token, which keeps the normaliser near 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
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
from megabiomed.kernels.loss_chunks import (
    IGNORE_INDEX,
    ChunkOps,
    CpuChunkOps,
    TorchChunkOps,
    gradient_weights,
    token_losses,
)
from megabiomed.kernels.weight_gradient import MainGradient, main_gradient

# fp32 logits of a chunk (half of it in bf16): large enough for the matrix products to run at full speed and for the weight
# gradient to be read and written seldom; small against all logits (8,192 tokens x 32,000 words: 1,000 MiB).
CHUNK_BYTES = {"cpu": 32 * 2**20, "cuda": 512 * 2**20}
CHUNK_MULTIPLE = {"cpu": 1, "cuda": 256}
"""Tokens of a chunk are a multiple of this: a matrix product on a GPU computes whole tiles of 128 or 256 rows anyway."""


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

    @property
    def alone(self) -> bool:
        """Whether this rank holds the whole vocabulary."""
        return self.group is None or self.group.size() == 1


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    shard: Shard | None = None,
    *,
    z_loss: float = 0.0,
    scale: float | None = None,
    chunk_tokens: int | None = None,
    backend: str = AUTO,
) -> Tensor:
    """Summed cross entropy of hidden @ weight^T, times `scale`.

    Args:
        hidden: [t, h], equal on the ranks of the shard's group. Its gradient is this rank's partial sum over the vocabulary:
            the caller sums it over the group.
        weight: [rows, h] of this rank.
        labels: [t] vocabulary ids, or IGNORE_INDEX for tokens without a target; equal on the ranks.
        z_loss: weight of the squared log-normaliser.
        scale: factor of the loss, where it is known and backward starts at the result. None is 1, and whatever backward
            brings; multiplying a result by a factor gives the same gradients, at the price of a pass over them. With a
            scale, a weight that has a main gradient (`weight_gradient`) gets its products there, during forward: such a
            result must reach backward, once, with the factor 1, which is checked.
        chunk_tokens: tokens per chunk; None keeps a chunk's logits at 32 MiB (CPU, fp32) or 256 MiB (GPU, bf16).

    Returns:
        [1] fp32, equal on the ranks; 0 when no token has a target.
    """
    shard = shard or Shard(0, weight.size(0))
    ops = choice(site_of(hidden), backend).function
    # From the padded rows, which are as many on every rank: ranks with chunks of their own would wait for each other forever.
    rows = chunk_tokens or _chunk_rows(hidden.device.type, weight.size(0))
    call = _Call(shard, float(z_loss), 1.0 if scale is None else float(scale), rows, ops, torch.is_grad_enabled())
    return cast(Tensor, _Loss.apply(hidden, weight, labels, call, None if scale is None else main_gradient(weight)))


def reference(hidden: Tensor, weight: Tensor, labels: Tensor, z_loss: float = 0.0) -> Tensor:
    """The definition in plain torch, on the full vocabulary."""
    logits = hidden @ weight.t()  # [t, v]
    kept = labels != IGNORE_INDEX
    lse = logits.logsumexp(-1)  # [t]
    target = logits.gather(1, labels.clamp_min(0)[:, None])[:, 0]
    return ((lse - target + z_loss * lse.square()) * kept).sum().reshape(1)


def _chunk_rows(device: str, vocabulary: int) -> int:
    rows, multiple = CHUNK_BYTES[device] // max(1, vocabulary * 4), CHUNK_MULTIPLE[device]
    return max(multiple, rows // multiple * multiple)


@dataclass(frozen=True)
class _Call:
    """What an evaluation is told besides its tensors; `rows` are the tokens of a chunk."""

    shard: Shard
    z_loss: float
    scale: float
    rows: int
    ops: ChunkOps
    gradients: bool


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        call: _Call,
        main: MainGradient | None,
    ) -> Tensor:
        wanted = tuple(call.gradients and need for need in ctx.needs_input_grad[:2])
        head = _Head(hidden, weight, labels, call, main, wanted)
        loss = head.run()
        ctx.gradients, ctx.ops = (head.dhidden, head.dweight), call.ops
        ctx.final = head.main is not None
        ctx.once = hidden.dtype != torch.float64
        return loss

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        assert ctx.gradients is not None, "the gradients are scaled in place: one backward for each forward"
        gradients = ctx.gradients
        if ctx.final:
            _check_one(factor)
        if ctx.once:
            ctx.gradients = None
        else:  # gradcheck asks several times for one forward
            gradients = [None if gradient is None else gradient.clone() for gradient in gradients]
        for gradient in gradients:
            if gradient is not None:
                ctx.ops.rescale(gradient, factor.contiguous())
        return *gradients, None, None, None


def _check_one(factor: Tensor) -> None:
    """On a GPU the host does not wait for the answer: a wrong factor ends the run at one of the next operations."""
    message = "the weight gradient of the loss was complete before this factor came: expected 1; pass it as `scale`"
    torch._assert_async((factor == 1).all(), message)


class _Head:
    """One evaluation of the loss."""

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        call: _Call,
        main: MainGradient | None,
        wanted: tuple[bool, ...],
    ) -> None:
        self.hidden = hidden.contiguous()
        self.weight, self.padding = weight[: call.shard.size], weight.size(0) - call.shard.size
        self.labels = labels
        self.shard, self.rows = call.shard, call.rows
        self.z_loss, self.scale = call.z_loss, call.scale
        self.ops = call.ops
        self.main = main if wanted[1] else None
        self.dhidden = torch.empty_like(self.hidden) if wanted[0] else None
        own = wanted[1] and main is None
        self.dweight = torch.empty_like(weight, memory_format=torch.contiguous_format) if own else None
        self.wanted = any(wanted)
        self.losses: list[Tensor] = []

    def run(self) -> Tensor:
        """[1] the scaled loss; the gradients are complete then."""
        chunks = [slice(start, start + self.rows) for start in range(0, self.hidden.size(0), self.rows)]
        if self.shard.alone and self.wanted:
            for where in chunks:
                self._run_whole(where)
        else:
            self._run_sharded(chunks)
        if not self.losses:
            return torch.zeros(1, dtype=torch.float32, device=self.hidden.device)
        return torch.cat(self.losses).sum().mul_(self.scale).reshape(1).float()

    def _run_whole(self, where: slice) -> None:
        logits = self.hidden[where] @ self.weight.t()  # [n, v]
        losses, gradient = self.ops.loss_and_gradient(logits, self.labels[where], self.z_loss, self.scale)
        self.losses.append(losses)
        self._multiply(gradient, where)

    def _run_sharded(self, chunks: list[slice]) -> None:
        """Every chunk is finished after the next one has been multiplied; in between its exchange is on the way."""
        pending: _Chunk | None = None
        for where in chunks:
            following = self._begin(where)
            if pending is not None:
                self._finish(pending)
            pending = following
        if pending is not None:
            self._finish(pending)

    def _begin(self, where: slice) -> _Chunk:
        logits = self.hidden[where] @ self.weight.t()  # [n, v/tp]
        target = self.labels[where] - self.shard.first
        lse, own = self.ops.statistics(logits, target)
        return _Chunk(where, logits, target, *_exchange(torch.stack((lse, own)), self.shard))

    def _finish(self, chunk: _Chunk) -> None:
        if chunk.work is not None:
            chunk.work.wait()
        lse = chunk.gathered[:, 0].logsumexp(0)  # [n]
        own = chunk.gathered[:, 1].sum(0)
        kept = self.labels[chunk.where] != IGNORE_INDEX
        self.losses.append(token_losses(lse, own, kept, self.z_loss))
        if not self.wanted:
            return
        weights = gradient_weights(lse, kept, self.z_loss, self.scale)
        self._multiply(self.ops.gradient(chunk.logits, chunk.target, lse, *weights), chunk.where)

    def _multiply(self, gradient: Tensor, where: slice) -> None:
        """The chunk's part of both gradients, from that of its logits [n, v/tp]."""
        if self.dhidden is not None:
            torch.mm(gradient, self.weight, out=self.dhidden[where])
        if self.main is not None:
            padded = F.pad(gradient, (0, self.padding)) if self.padding else gradient  # [n, rows]
            self.main.add_product(padded, self.hidden[where])
        if self.dweight is not None:
            # The first chunk writes and the others add, so the buffer needs no pass that zeroes it.
            filled, padding = self.dweight.split([self.shard.size, self.padding])
            if where.start == 0:
                padding.zero_()
                torch.mm(gradient.t(), self.hidden[where], out=filled)
            else:
                filled.addmm_(gradient.t(), self.hidden[where])


@dataclass(frozen=True)
class _Chunk:
    where: slice
    logits: Tensor
    target: Tensor
    gathered: Tensor
    work: Any


def _exchange(statistics: Tensor, shard: Shard) -> tuple[Tensor, Any]:
    """([ranks, 2, n], work to wait for) of this rank's [2, n]."""
    if shard.group is None or shard.alone:
        return statistics.unsqueeze(0), None
    gathered = statistics.new_empty(2 * shard.group.size(), statistics.size(1))
    work = dist.all_gather_into_tensor(gathered, statistics, group=shard.group, async_op=True)
    return gathered.view(-1, *statistics.shape), work


def _triton() -> ChunkOps:
    from megabiomed.kernels.triton.vocabulary import TritonChunkOps

    return TritonChunkOps()


BACKENDS = (
    Backend("cpu", needs_cpu, CpuChunkOps, "blocks of rows that stay in the cache"),
    Backend("triton", needs_triton, _triton, "one kernel for losses and gradient; with tensor ranks one pass for each"),
    Backend("torch", serves_all, TorchChunkOps, "torch's own operations"),
)


def choice(site: Site, wanted: str = AUTO) -> Choice:
    """The backend that serves a site, and why."""
    return choose("loss", BACKENDS, site, wanted)
