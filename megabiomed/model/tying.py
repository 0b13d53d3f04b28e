"""A tied matrix at both ends of a pipeline: the first stage trains it, the last computes the head with a copy.

The engine of the first stage owns the matrix: its optimizer state, its part of the norm and its checkpoint exist once. In each
step every (replica, tensor rank) of the last stage gets the weights that its partner's first forward pass has at hand, and
its partner's last backward pass adds the head's gradient to that of the embedding, before any engine reduces it:

    first stage   embed, send W ... embed                 ... backward ... backward, get G, add ... step
    last stage    head: get W   ... head, G += dy^T x     ... send G                            ... step

Engines gather, reduce and shard as they do without it. What crosses the pipeline is [v/tp, h] each way, as in an all-reduce.
DeepSpeed's and Megatron's tied layers keep the optimizer state on both stages and sum the two gradients between them, which
needs the same partitions on both; ZeRO's flat ones differ between stages.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from megabiomed.checkpoint.checksums import checksums
from megabiomed.kernels.weight_gradient import PRODUCTS, MainGradient, main_gradient
from megabiomed.processes import platform
from megabiomed.processes.megatron_core import VocabParallelEmbedding

_FIRST, _LAST = 0, 1
"""Ranks in the group of both ends."""


class OwnedEnd:
    """The first stage's side.

    Args:
        group: this rank and the one of the last stage that has the same rows, in the same replica.
        micro_batches: of a step; each has one backward pass through the embedding.
    """

    def __init__(self, group: dist.ProcessGroup, micro_batches: int) -> None:
        self.group, self.micro_batches = group, micro_batches
        self._stale, self._left = False, 0
        self._sent: tuple[dist.Work, Tensor] | None = None  # held until it has arrived
        self._wanted, self._sum = False, cast(Tensor | None, None)
        _connect(group)

    def begin_step(self) -> None:
        """Before the first forward pass of a step."""
        self._left = self.micro_batches

    def finish_backward(self) -> None:
        """After the last backward pass of a step."""
        assert self._left == 0, "the head's gradient was not fetched"
        self._arrived()

    def weights_changed(self) -> None:
        """After a step, or after weights were loaded: the next forward pass sends them."""
        self._stale = True

    def used(self, y: Tensor, weight: Tensor) -> Tensor:
        """The embeddings y, in whose backward pass the gradient of the head reaches the weight [v/tp, h]."""
        if self._stale:
            self._send(weight.detach().clone())  # an engine may free the gathered one
        gradients = torch.is_grad_enabled() and weight.requires_grad
        return cast(Tensor, _Deposit.apply(y, weight, self)) if gradients else y

    def sums_next(self) -> None:
        """Keep a checksum of the weights that the next step computes with."""
        self._wanted = self._stale
        # Sent already, by a measurement between the steps.
        if not self._stale and self._sent is not None:
            self._sum = checksums([self._sent[1]])[0]

    def take_sum(self) -> Tensor | None:
        """The checksum of what was sent, [] int64, once; None if nobody asked for it before."""
        found, self._sum = self._sum, None
        return found

    def _send(self, weight: Tensor) -> None:
        self._arrived()
        if self._wanted:
            self._wanted, self._sum = False, checksums([weight])[0]
        work = dist.broadcast(weight, group=self.group, group_src=_FIRST, async_op=True)
        assert work is not None
        self._sent, self._stale = (work, weight), False

    def _arrived(self) -> None:
        if self._sent is not None:
            self._sent[0].wait()
        self._sent = None

    def fetch(self, weight: Tensor) -> Tensor | None:
        """What backward adds to the gradient of the weight; None before the last micro-batch, or where a buffer got it."""
        self._left -= 1
        if self._left != 0:
            return None
        gradient = torch.empty(weight.shape, dtype=torch.float32, device=weight.device)
        dist.broadcast(gradient, group=self.group, group_src=_LAST)
        main = main_gradient(weight)
        if main is None:
            return gradient.to(weight.dtype)
        # A buffer without a product yet holds the last step's values, and is zeroed first.
        main.finish_step()
        main.value += gradient
        return None


class CopiedEnd:
    """The last stage's side: a copy of the weights [v/tp, h] in the compute type, and their gradient in fp32.

    No engine sees either: the copy is no parameter of a module.

    Args:
        group: the first stage's rank that has the same rows, in the same replica, and this one.
        product: how products are added to the gradient (`kernels.weight_gradient`).
    """

    def __init__(self, group: dist.ProcessGroup, dtype: torch.dtype, product: str) -> None:
        self.group, self.dtype = group, dtype
        # No hook sees this gradient, so it always takes the way into the buffer.
        self._product = PRODUCTS["auto" if product == "auto" else "bits"]
        self._shape: tuple[int, int] = (0, 0)
        self._weight: Tensor | None = None
        self._stale = False
        self._sent: dist.Work | None = None
        self._wanted = False
        _connect(group)

    def hold(self, rows: int, columns: int) -> None:
        """Say the shape. Memory is taken later: an engine's construction may change where and how tensors are made."""
        self._shape = rows, columns

    def begin_step(self) -> None:
        """See `OwnedEnd`."""
        if self._sent is not None:
            self._sent.wait()
        self._main.begin_step()

    def finish_backward(self) -> None:
        """See `OwnedEnd`: sends the gradient."""
        assert self._held.grad is None, "the head's gradient went past its buffer"
        self._main.finish_step()
        self._sent = dist.broadcast(self._main.value, group=self.group, group_src=_LAST, async_op=True)

    def weights_changed(self) -> None:
        """See `OwnedEnd`: the next use fetches them."""
        self._stale = True

    def sums_next(self) -> None:
        """See `OwnedEnd`."""
        self._wanted = True

    def take_sum(self) -> Tensor | None:
        """See `OwnedEnd`: of the copy, after the passes that have used it."""
        wanted, self._wanted = self._wanted, False
        return checksums([self._held])[0] if wanted else None

    def weight(self) -> Tensor:
        """[v/tp, h], as the first stage has them now."""
        held = self._held
        if self._stale:
            dist.broadcast(held.detach(), group=self.group, group_src=_FIRST)
            self._stale = False
        return held

    @property
    def _held(self) -> Tensor:
        if self._weight is None:
            self._weight = torch.zeros(self._shape, dtype=self.dtype, device=platform.device()).requires_grad_()
            gradient = torch.zeros(self._shape, dtype=torch.float32, device=platform.device())
            cast(Any, self._weight).main_grad = MainGradient(gradient, self._product)
        return self._weight

    @property
    def _main(self) -> MainGradient:
        main = main_gradient(self._held)
        assert main is not None
        return main


TiedEnd = OwnedEnd | CopiedEnd


class OwnedEmbedding(VocabParallelEmbedding):
    """The embedding of a first stage whose weight is also the head of the last one."""

    fills_main_grad = True
    """The head's gradient is added to `weight.main_grad`, where an engine has set it."""
    end: OwnedEnd

    def forward(self, input_: Tensor) -> Tensor:
        """As the base class."""
        return self.end.used(super().forward(input_), self.weight)


class _Deposit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, weight: Tensor, end: OwnedEnd) -> Tensor:
        ctx.end, ctx.parameter = end, weight
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor | None, None]:
        return dy, ctx.end.fetch(ctx.parameter), None


def _connect(group: dist.ProcessGroup) -> None:
    """Let both ends meet once now: a backend that does so at the first use would wait for the other's pipeline."""
    dist.all_reduce(torch.zeros(1, dtype=torch.int32, device=platform.device()), group=group)
