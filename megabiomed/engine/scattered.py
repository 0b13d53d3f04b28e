"""Weight gradients of ranks that each keep a part of them: product, reduce-scatter and addition, all in fp32."""

from __future__ import annotations

from collections import deque

import torch
import torch.distributed as dist
from torch import Tensor

from megabiomed.kernels.weight_gradient import MainGradient, Product

_IN_FLIGHT = 2
"""Whole gradients [o, i] that exist at a time: one that is reduced, and one that is multiplied meanwhile."""


class Reducer:
    """Averages gradients over the ranks of a data-parallel group, beside the backward pass where there is a GPU."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self._stream: torch.cuda.Stream | None = None
        self._flying: deque[tuple[torch.cuda.Event, Tensor]] = deque()

    def add_mean(self, partition: Tensor, whole: Tensor, overwrite: bool) -> None:
        """partition [n] += this rank's part of the mean of `whole` [ranks * n]; both fp32."""
        if whole.device.type == "cpu":
            self._add(partition, whole, overwrite)
            return
        self._stream = self._stream or torch.cuda.Stream(whole.device)
        # The stream must not reduce before the product that fills `whole` is done.
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            self._add(partition, whole, overwrite)
        # The reference keeps the allocator from handing the memory out while the other stream reads it.
        self._flying.append((self._stream.record_event(), whole))

    def make_room(self) -> None:
        """Before another whole gradient is allocated."""
        while len(self._flying) >= _IN_FLIGHT:
            event, _ = self._flying.popleft()
            torch.cuda.current_stream().wait_event(event)

    def wait(self) -> None:
        """Let what follows on the current stream see all partitions."""
        if self._stream is not None:
            torch.cuda.current_stream().wait_stream(self._stream)
        self._flying.clear()

    def _add(self, partition: Tensor, whole: Tensor, overwrite: bool) -> None:
        part = torch.empty_like(partition)  # [n]
        dist.reduce_scatter_tensor(part, whole, group=self.group)
        if overwrite:
            torch.mul(part, 1 / self.group.size(), out=partition)
        else:
            partition.add_(part, alpha=1 / self.group.size())


class ScatteredGradient(MainGradient):
    """A gradient [o, i] of which this rank keeps `partition` [n], n the elements over the ranks, rounded up."""

    def __init__(self, partition: Tensor, shape: tuple[int, ...], product: Product, reducer: Reducer) -> None:
        super().__init__(partition, product)
        self.shape, self.reducer = torch.Size(shape), reducer

    def add_product(self, dy: Tensor, x: Tensor) -> None:
        """See `MainGradient`. A collective: every rank of the group calls it for the same weights in the same order."""
        self.reducer.make_room()
        whole = self.value.new_empty(self.value.numel() * self.reducer.group.size())
        used = self.shape.numel()
        # The padding is reduced as well, and the norm reads the partition with it.
        whole[used:].zero_()
        self._product(whole[:used].view(self.shape), dy, x, overwrite=True)  # [o, i]
        self.reducer.add_mean(self.value, whole, self.fresh)
        self.fresh = False
