"""Best-fit decreasing bin packing (Johnson 1973), as Ding et al. 2024 (arXiv 2404.10830) use it for training windows."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

MAX_PADDING = 0.005
"""Share of all positions that may stay empty before bins are taken apart; see `poorly_filled`."""


def best_fit(lengths: NDArray[np.integer], capacity: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Put items into bins: longest first, each into the fullest bin that it fits in; a pure function.

    Items of one length, and bins with the same room, are handled together, so the work grows with the number of different
    lengths and not with the number of items (apart from two sorts).

    Args:
        lengths: [items] lengths from 1 to `capacity`.

    Returns:
        [bins + 1] where each bin begins in the second array, and [items] the items, bin by bin, ascending in each.
    """
    assert not len(lengths) or (lengths.min() >= 1 and lengths.max() <= capacity)
    # Stable, and with it the result: the windows of a store are part of the order that a resume compares.
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    ordered = lengths[order]
    edges = [0, *(np.flatnonzero(np.diff(ordered)) + 1).tolist(), len(order)] if len(order) else []
    room = _Room(capacity)
    bin_of = np.empty(len(order), dtype=np.int64)
    for low, high in pairwise(edges):
        while low < high:
            bins = room.take(int(ordered[low]), high - low)
            bin_of[order[low : low + len(bins)]] = bins
            low += len(bins)
    starts = np.concatenate(([0], np.cumsum(np.bincount(bin_of, minlength=room.bins)))).astype(np.int64)
    return starts, np.argsort(bin_of, kind="stable")


def poorly_filled(filled: NDArray[np.int64], capacity: int, full: int) -> NDArray[np.int64]:
    """The fewest bins, emptiest first, whose items laid end to end and cut leave at most MAX_PADDING of all positions empty.

    Args:
        filled: [bins] used positions of each.
        full: further bins without an empty position.

    Returns:
        ascending numbers of bins: none if the padding is small already, or if laying them end to end saves no bin; if the
        bound cannot be met, those that save most.
    """
    padding, places = len(filled) * capacity - int(filled.sum()), (full + len(filled)) * capacity
    if not padding > MAX_PADDING * places:
        return np.empty(0, np.int64)
    # What is laid end to end gets cut. The emptiest bins give up the most padding for the fewest documents cut.
    emptiest = np.argsort(filled, kind="stable")
    # Bins saved by the first k of them: k bins minus the windows that their items fill, rounded up.
    saved = np.arange(1, len(filled) + 1) - -(-np.cumsum(filled[emptiest]) // capacity)
    met = np.flatnonzero(padding - saved * capacity <= MAX_PADDING * (places - saved * capacity))
    number = int(met[0] if len(met) else saved.argmax())
    return np.sort(emptiest[: number + 1]) if saved[number] > 0 else np.empty(0, np.int64)


class _Room:
    """The bins by the room that is left in them."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.bins = capacity, 0
        # One list per amount of room, as lengths are bounded: no heap, and all bins with the same room are found at once.
        self._left: list[list[NDArray[np.int64]]] = [[] for _ in range(capacity + 1)]
        self._any = np.zeros(capacity + 1, dtype=np.bool_)

    def take(self, length: int, wanted: int) -> NDArray[np.int64]:
        """Bins for up to `wanted` items of one length, one entry per item; at least one item is served."""
        # The smallest room that is large enough; argmax finds the first True, or 0 where there is none.
        left = length + int(self._any[length:].argmax())
        if self._any[left]:
            bins = np.concatenate(self._left[left])
            self._left[left], self._any[left] = [], False
        else:
            left = self.capacity  # no open bin fits: new ones, as many as all wanted items need
            bins = np.arange(self.bins, self.bins - (-wanted // (left // length)))
            self.bins += len(bins)
        each = left // length
        served = min(wanted, each * len(bins))
        full, more = divmod(served, each)
        self._keep(left - each * length, bins[:full])
        self._keep(left - more * length, bins[full : full + (more > 0)])
        self._keep(left, bins[full + (more > 0) :])
        return np.repeat(bins, each)[:served]

    def _keep(self, left: int, bins: NDArray[np.int64]) -> None:
        if len(bins):
            self._left[left].append(bins)
            self._any[left] = True
