"""Norm of the gradient of each logical tensor in a step: taken on the device, before clipping, the same on every topology.

A fused or sharded parameter counts under the names that a checkpoint has, so steps of different topologies can be compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from megabiomed.checkpoint.logical import Placement
from megabiomed.processes import platform


@dataclass(frozen=True)
class GradientPart:
    """Elements [start, start + n) of the reduced gradient of a flattened local parameter.

    Attributes:
        values: [n], of any floating type.
    """

    placement: Placement
    start: int
    values: Tensor


class GradientNorms:
    """Adds up the squares of each tensor's gradient while a step is computed. Does nothing until it is asked to record."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._numbers: dict[str, int] = {}
        self._squares: Tensor | None = None
        self._norms: platform.Later | None = None
        self._indices: dict[tuple[int, ...], Tensor] = {}

    def record(self, names: Iterable[str]) -> None:
        """Record these tensors from the next step on, the same ones on every rank; none switches it off."""
        self._names = sorted(names)
        self._numbers = {name: number for number, name in enumerate(self._names)}
        self._indices.clear()
        self._norms = None

    @property
    def recording(self) -> bool:
        """Whether `add` and `finish` do something."""
        return bool(self._names)

    def begin(self) -> None:
        """Before the gradients of a step are added."""
        if self.recording:
            self._squares = torch.zeros(len(self._names), dtype=torch.float64, device=platform.device())  # [n]

    @torch.no_grad()
    def add(self, parts: Iterable[GradientPart]) -> None:
        """Count the parts of gradients that this rank answers for; over all ranks each element once."""
        if not self.recording or self._squares is None:
            return
        found = [piece for part in parts for piece in self._pieces(part)]
        if not found:
            return
        norms = torch.stack(list(torch._foreach_norm([values for _, values in found], 2, torch.float32)))
        squares = norms.to(self._squares.device, torch.float64).square()
        self._squares.index_add_(0, self._index(tuple(number for number, _ in found)), squares)

    def _pieces(self, part: GradientPart) -> Iterator[tuple[int, Tensor]]:
        """(number of the logical tensor, its elements) for each one that the part holds something of."""
        flat = part.values.detach().reshape(-1)
        width = part.placement.row_elements
        for piece in part.placement.pieces:
            first = piece.local_row * width - part.start
            low, high = max(0, first), min(flat.numel(), first + piece.box.numel)
            if low < high:
                yield self._numbers[piece.box.name], flat[low:high]

    def _index(self, numbers: tuple[int, ...]) -> Tensor:
        # Kept, because a copy of host memory to the device makes the host wait.
        if numbers not in self._indices:
            self._indices[numbers] = torch.tensor(numbers, device=platform.device())
        return self._indices[numbers]

    def finish(self) -> None:
        """After the gradients of a step were added. Collective over the world; the host waits for nothing."""
        if not self.recording or self._squares is None:
            return
        dist.all_reduce(self._squares)
        self._norms = platform.Later(self._squares.sqrt())

    def read(self) -> dict[str, float]:
        """Norms of the last step, by logical tensor; empty where none were recorded."""
        return {} if self._norms is None else dict(zip(self._names, self._norms.read_all(), strict=True))
