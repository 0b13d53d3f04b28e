"""Which boxes of which logical tensors a tensor rank holds, by the cut that the table names."""

from __future__ import annotations

from collections.abc import Iterable

from megabiomed.checkpoint.logical import Box, PlacedBox
from megabiomed.model.tensors import LogicalTensor


def pieces(tensors: Iterable[LogicalTensor], rank: int, ranks: int) -> tuple[PlacedBox, ...]:
    """The rows of one local parameter: this rank's parts of some logical tensors, one below the other.

    Args:
        rank: of `ranks` tensor ranks.
    """
    found = []
    row = 0
    for tensor in tensors:
        box = held(tensor, rank, ranks)
        if box is not None:
            found.append(PlacedBox(row, box))
            row += box.shape[0]
    return tuple(found)


def held(tensor: LogicalTensor, rank: int, ranks: int) -> Box | None:
    """This rank's part of a tensor; None where it holds padding of the vocabulary alone."""
    shape = tensor.shape
    if tensor.cut == "whole":
        return Box.whole(tensor.name, shape)
    dimension = 1 if tensor.cut == "columns" else 0
    size = shape[dimension]
    # Only the vocabulary is rounded up: the other cuts divide, which the topology's checks see to.
    share = padded(size, ranks) // ranks if tensor.cut == "vocabulary" else size // ranks
    first = rank * share
    count = min(share, size - first)
    if count <= 0:
        return None
    offset = tuple(first if d == dimension else 0 for d in range(len(shape)))
    part = tuple(count if d == dimension else length for d, length in enumerate(shape))
    return Box(tensor.name, shape, offset, part)


def padded(rows: int, ranks: int) -> int:
    """Rows of the vocabulary with the padding that makes equal parts."""
    return -(-rows // ranks) * ranks
