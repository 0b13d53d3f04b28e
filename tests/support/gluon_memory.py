"""What a Gluon kernel holds and points at, for the emulator in `gluon.py`: shared memory, barriers, products, addresses."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

NAN = float("nan")


class KernelFault(AssertionError):
    """The kernel did what the hardware would not forgive."""


class Barrier:
    """An mbarrier: a phase completes when `count` arrivals and all expected bytes are in."""

    def __init__(self) -> None:
        self.count = self.pending = self.bytes = self.completed = 0

    def change(self, arrivals: int, nbytes: int) -> None:
        self.pending -= arrivals
        self.bytes += nbytes
        if self.pending < 0:
            raise KernelFault("more arrivals at a barrier than it was initialised for")
        if self.pending == 0 and self.bytes == 0:
            self.pending, self.completed = self.count, self.completed + 1

    def passed(self, parity: int) -> bool:
        return (self.completed & 1) != parity


class Shared:
    """A view of shared memory; `root` is the allocation, which remembers who wrote it without a fence."""

    def __init__(self, data: Tensor, root: Shared | None = None) -> None:
        self.data = data
        self.root = root or self
        self.unfenced = set[int]()
        self.dtype = data.dtype

    def _view(self, data: Tensor) -> Shared:
        return Shared(data, self.root)

    def index(self, i: int) -> Shared:
        return self._view(self.data[i])

    def permute(self, order: tuple[int, ...]) -> Shared:
        return self._view(self.data.permute(order))

    def load(self, layout: Any) -> Tensor:
        return self.data.clone()

    def store(self, value: Tensor) -> None:
        self.data.copy_(value)
        self.root.unfenced.add(threading.get_ident())

    def for_async_proxy(self) -> Tensor:
        if threading.get_ident() in self.root.unfenced:
            raise KernelFault("the asynchronous proxy reads what was stored without a fence")
        return self.data


class Barriers:
    """An array of barriers in shared memory."""

    def __init__(self, count: int) -> None:
        self.all = [Barrier() for _ in range(count)]

    def index(self, i: int) -> Barrier:
        return self.all[i]


class Flying:
    """The result of an asynchronous product."""

    def __init__(self, compute: Callable[[], Tensor], eager: bool) -> None:
        self.compute, self.value = compute, compute() if eager else None

    def land(self) -> None:
        self.value = self.compute() if self.value is None else self.value


class Pointer:
    """Address arithmetic over a tensor's storage."""

    def __init__(self, tensor: Tensor, offset: Any = 0) -> None:
        self.tensor, self.offset = tensor, offset

    def __add__(self, more: Any) -> Pointer:
        return Pointer(self.tensor, self.offset + more)

    def place(self, mask: Any) -> tuple[Tensor, Tensor, Any]:
        """(flat storage, indices, mask); an unmasked access outside raises IndexError."""
        base = self.tensor.storage_offset()
        size = self.tensor.untyped_storage().nbytes() // self.tensor.itemsize - base
        where = self.offset if mask is None else torch.where(mask, self.offset, 0)
        return self.tensor.as_strided((size,), (1,), base), where, mask
