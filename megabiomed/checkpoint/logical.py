"""Logical tensors: the one vocabulary between engines, checkpoints and Hugging Face files.

A *logical tensor* is a parameter of the whole model under its Hugging Face name and full shape. A *box* is a
rectangular part of one. A *placement* says which boxes a rank's local parameter holds, so that flat ZeRO ranges of any
engine can be written as boxes and any topology can read them back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Protocol, runtime_checkable

import torch


@dataclass(frozen=True, order=True)
class Box:
    """A rectangular part of a logical tensor: elements offset[d] <= i_d < offset[d] + shape[d]."""

    name: str
    global_shape: tuple[int, ...]
    offset: tuple[int, ...]
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        assert len(self.global_shape) == len(self.offset) == len(self.shape), self
        # No box is empty, so None is the only way to say that two boxes have nothing in common.
        assert all(o >= 0 and n > 0 and o + n <= g for o, n, g in zip(self.offset, self.shape, self.global_shape)), self

    def __str__(self) -> str:
        inner = ", ".join(f"{o}:{o + n}" for o, n in zip(self.offset, self.shape))
        return f"{self.name}[{inner}]"

    @property
    def numel(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @classmethod
    def whole(cls, name: str, shape: tuple[int, ...]) -> Box:
        """The box that is the whole tensor."""
        return cls(name, shape, (0,) * len(shape), shape)

    def intersect(self, other: Box) -> Box | None:
        """The common part of two boxes of the same tensor, or None."""
        offset = tuple(max(a, b) for a, b in zip(self.offset, other.offset))
        end = tuple(min(a + n, b + m) for a, n, b, m in zip(self.offset, self.shape, other.offset, other.shape))
        if any(e <= o for o, e in zip(offset, end)):
            return None
        return Box(self.name, self.global_shape, offset, tuple(e - o for o, e in zip(offset, end)))

    def minus(self, other: Box) -> list[Box]:
        """Disjoint boxes of what remains of this box without `other` (a box of the same tensor)."""
        common = self.intersect(other)
        if common is None:
            return [self]
        remains = []
        offset = list(self.offset)
        shape = list(self.shape)
        # Cut off what lies before and after the common part, one dimension at a time.
        for d, (low, size) in enumerate(zip(common.offset, common.shape)):
            for start, stop in ((offset[d], low), (low + size, offset[d] + shape[d])):
                if start < stop:
                    cut = (*offset[:d], start, *offset[d + 1 :]), (*shape[:d], stop - start, *shape[d + 1 :])
                    remains.append(Box(self.name, self.global_shape, *cut))
            # Later cuts stay within the common part's extent here, which keeps the boxes disjoint.
            offset[d], shape[d] = low, size
        return remains

    def slices_in(self, outer: Box) -> tuple[slice, ...]:
        """Where this box lies inside the array that holds `outer`."""
        return tuple(slice(a - b, a - b + n) for a, b, n in zip(self.offset, outer.offset, self.shape))

    def flat_range(self, start: int, stop: int) -> Iterator[tuple[slice, Box]]:
        """Boxes of the elements [start, stop) of this box flattened in row-major order, with their flat ranges.

        A range of a matrix is at most three boxes: the end of a row, whole rows, the start of a row.
        """
        for low, high, offset, shape in _ranges(self.shape, start, stop):
            moved = tuple(a + b for a, b in zip(self.offset, offset))
            yield slice(low, high), Box(self.name, self.global_shape, moved, shape)


_Range = tuple[int, int, tuple[int, ...], tuple[int, ...]]


def _ranges(shape: tuple[int, ...], start: int, stop: int) -> Iterator[_Range]:
    """(low, high, offset, shape) of the boxes that make up the flat range [start, stop) of an array of `shape`."""
    # A scalar, of shape (), always ends here.
    if start == 0 and stop == prod(shape):
        yield start, stop, (0,) * len(shape), shape
        return
    width = prod(shape[1:])
    while start < stop:
        row, column = divmod(start, width)
        # A range that begins inside a row ends that row first, one dimension further in; then whole rows are one box.
        rows = 0 if column else (stop - start) // width
        if rows:
            yield start, start + rows * width, (row,) + (0,) * (len(shape) - 1), (rows, *shape[1:])
            start += rows * width
        else:
            first, end = row * width, min(stop, (row + 1) * width)
            for low, high, offset, inner in _ranges(shape[1:], column, end - first):
                yield first + low, first + high, (row, *offset), (1, *inner)
            start = end


def uncovered(box: Box, boxes: Iterable[Box]) -> list[Box]:
    """The parts of `box` that none of `boxes` (of the same tensor) holds; empty when all of it is held."""
    remains = [box]
    for held in boxes:
        remains = [rest for part in remains for rest in part.minus(held)]
    return remains


@dataclass(frozen=True)
class PlacedBox:
    """Rows `local_row ...` of a local parameter hold `box`; both have the same row length."""

    local_row: int
    box: Box


@dataclass(frozen=True)
class Placement:
    """Where every row of one local parameter comes from. Rows that no piece covers are padding and never stored.

    A fused parameter (q, k and v in one matrix; gate and up in one) has several pieces. Row-parallel weights have one
    piece that covers a range of columns. `replicated` means that every tensor-parallel rank holds the same values.
    """

    local_shape: tuple[int, ...]
    pieces: tuple[PlacedBox, ...]
    replicated: bool = False

    def __post_init__(self) -> None:
        # Flat ranges become boxes only while the rows of both have the same length.
        assert all(piece.box.shape[1:] == self.local_shape[1:] for piece in self.pieces), self

    @property
    def row_elements(self) -> int:
        """Elements of a row of the local parameter, and of every piece."""
        return prod(self.local_shape[1:])

    def blocks(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[slice, Box]]:
        """Boxes of the elements [start, stop) of the flattened local parameter, with their flat ranges in it."""
        stop = prod(self.local_shape) if stop is None else stop
        width = self.row_elements
        for piece in self.pieces:
            # Rows follow one another in the flattened parameter, so a piece is one flat range of it.
            first = piece.local_row * width
            low, high = max(start, first), min(stop, first + piece.box.numel)
            if low < high:
                for part, box in piece.box.flat_range(low - first, high - first):
                    yield slice(first + part.start, first + part.stop), box


@dataclass
class Fragment:
    """One box of training state on this rank, with views of the engine's own fp32 storage.

    Writing a view into a file saves it; copying into the view loads it.

    Attributes:
        box: the part of the logical tensor.
        views: by kind ("param" is the fp32 master; the others are the optimizer's moments), of shape `box.shape`, sharing
            storage with the engine.
        owner: True on exactly one of the ranks that hold the same box; only the owner saves.
        sums: by kind, checksums (`checkpoint.checksums`) of the state that the views are copies of; none: not known.
    """

    box: Box
    views: dict[str, torch.Tensor] = field(default_factory=dict)
    owner: bool = True
    sums: dict[str, int] = field(default_factory=dict)


class TensorSource(Protocol):
    """Anything that logical tensors can be read from: a checkpoint, a Hugging Face folder, a seeded initialiser."""

    def read(self, box: Box, kind: str = "param") -> torch.Tensor:
        """Values of one box as fp32, shape `box.shape`; reads no more than the box needs."""
        ...


@runtime_checkable
class DirectSource(TensorSource, Protocol):
    """A source that can fill memory which is already there, so that loading needs none besides."""

    def read_into(self, box: Box, out: torch.Tensor, kind: str = "param") -> None:
        """Fill `out`, of shape `box.shape`, with the values of one box."""
        ...


def fill(source: TensorSource, box: Box, out: torch.Tensor, kind: str = "param") -> None:
    """Put the values of one box into `out`, directly where the source can."""
    if isinstance(source, DirectSource):
        source.read_into(box, out, kind)
    else:
        out.copy_(source.read(box, kind))
