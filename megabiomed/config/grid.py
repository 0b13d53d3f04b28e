"""The grid of ranks: which rank stands where on named axes, without torch. Every formula about ranks is here.

    rank = (pp * size(dp) + dp) * size(tp) + tp

The last axis is the fastest, so that tensor ranks are neighbours (one node). megatron-core numbers ranks in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal

Axis = Literal["pp", "dp", "tp"]
AXES: tuple[Axis, ...] = ("pp", "dp", "tp")
"""From the slowest to the fastest."""

Span = Literal["pp", "dp", "tp", "replicas", "shards", "model"]
SPANS: Mapping[Span, tuple[Axis, ...]] = {
    "pp": ("pp",),
    "dp": ("dp",),
    "tp": ("tp",),
    # Who reads other samples, and over whom gradients are averaged and states sharded. The same ranks today; ranks that
    # share the tokens of a window would average and shard together, but read the same samples.
    "replicas": ("dp",),
    "shards": ("dp",),
    "model": ("pp", "tp"),
}
"""Names by which ranks are grouped: single axes, and those of what several axes do together.

`model`: the ranks that hold every parameter once, over which squared gradients are summed.
"""


@dataclass(frozen=True)
class Grid:
    """A rectangle of ranks, numbered from 0. Ranks of a run that hold nothing of the model come after it.

    Attributes:
        sizes: ranks along each of `AXES`.
    """

    sizes: tuple[int, ...]

    @classmethod
    def of(cls, **sizes: int) -> Grid:
        """A grid by names: `Grid.of(pp=2, dp=1, tp=4)`; an axis that is left out has one rank."""
        assert sizes.keys() <= set(AXES), sizes
        return cls(tuple(sizes.get(axis, 1) for axis in AXES))

    def __len__(self) -> int:
        """Number of ranks."""
        return prod(self.sizes)

    def __contains__(self, rank: int) -> bool:
        return 0 <= rank < len(self)

    def size(self, span: Span) -> int:
        """Ranks along a span."""
        return prod(self._size(axis) for axis in SPANS[span])

    def coordinate(self, rank: int, span: Span) -> int:
        """Place of a rank along a span, from 0; of several axes the last is the fastest."""
        assert rank in self, f"rank {rank} of {self.describe()}"
        found = 0
        for axis in SPANS[span]:
            found = found * self._size(axis) + rank // self._stride(axis) % self._size(axis)
        return found

    def rank(self, **coordinates: int) -> int:
        """The rank at these coordinates: `grid.rank(pp=1, tp=3)`; an axis that is left out is at 0."""
        assert coordinates.keys() <= set(AXES), coordinates
        return sum(coordinates.get(axis, 0) * self._stride(axis) for axis in AXES)

    def group(self, rank: int, span: Span) -> list[int]:
        """All ranks that differ from a rank along a span alone, itself among them, in the order of their places there."""
        # Ranks counted upwards are in the order of their places along the span.
        rest = [axis for axis in AXES if axis not in SPANS[span]]
        place = [self.coordinate(rank, axis) for axis in rest]
        return [other for other in range(len(self)) if [self.coordinate(other, axis) for axis in rest] == place]

    def groups(self, span: Span) -> list[list[int]]:
        """Every group along a span, each once."""
        return [self.group(rank, span) for rank in range(len(self)) if self.coordinate(rank, span) == 0]

    def describe(self) -> str:
        """`pp 2 x dp 1 x tp 2`."""
        return " x ".join(f"{axis} {size}" for axis, size in zip(AXES, self.sizes))

    def place(self, rank: int) -> str:
        """`pp 0/2 x dp 0/1 x tp 1/2`: the coordinates of a rank."""
        return " x ".join(f"{axis} {self.coordinate(rank, axis)}/{self._size(axis)}" for axis in AXES)

    def _size(self, axis: Axis) -> int:
        return self.sizes[AXES.index(axis)]

    def _stride(self, axis: Axis) -> int:
        return prod(self.sizes[AXES.index(axis) + 1 :])


@dataclass(frozen=True)
class PipelineParts:
    """Which parts of the model a pipeline stage holds: chunk v of stage p is part p + v * stages.

    Attributes:
        stages: pipeline ranks.
        chunks: parts per rank; 1 unless the schedule is interleaved.
    """

    stages: int
    chunks: int = 1

    def __len__(self) -> int:
        """Number of parts; a micro-batch goes through them in order."""
        return self.stages * self.chunks

    def part(self, stage: int, chunk: int) -> int:
        """Number of the part that is a stage's chunk."""
        # Neighbouring parts are on neighbouring stages; from the last stage a micro-batch returns to the first.
        return stage + chunk * self.stages

    def of_stage(self, stage: int) -> list[int]:
        """The parts of a stage, in the order of its chunks."""
        return [self.part(stage, chunk) for chunk in range(self.chunks)]

    def stage(self, part: int) -> int:
        """The stage that holds a part."""
        return part % self.stages
