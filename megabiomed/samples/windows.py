"""Questions with answers, packed into windows: several in one window, each seeing only itself, loss on the answers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from megabiomed.data.packing import IGNORE_INDEX, Window, padding_window
from megabiomed.data.permutation import Permutation
from megabiomed.samples.store import AnswerStore

Expanded = tuple[NDArray[np.int64], NDArray[np.int64]]


class AnswerWindows:
    """Records packed into windows of `seq_length` places, next-fit in a fixed shuffled order.

    Attributes:
        lengths: [records] places of each.
        too_long: records that do not fit into one window and are left out.
    """

    def __init__(self, store: AnswerStore, seq_length: int, seed: int) -> None:
        self.seq_length = seq_length
        self.store = store
        lengths = self.lengths = self._lengths()
        order = Permutation(len(store), seed, 0, 0)(np.arange(len(store))) if len(store) else np.zeros(0, np.int64)
        fits = order[lengths[order] <= seq_length]
        self.too_long = len(store) - len(fits)
        ends, filled = [0], 0
        # Next-fit in the shuffled order: chance decides what shares a window.
        for number, length in enumerate(lengths[fits].tolist()):
            if filled + length > seq_length:
                ends.append(number)
                filled = 0
            filled += length
        # Without windows the length is 0.
        self.order, self.ends = fits, [*ends, len(fits)] if len(fits) else [0]

    def __len__(self) -> int:
        return len(self.ends) - 1

    def _lengths(self) -> NDArray[np.int64]:
        """Places of each record: its tokens without the last, which is only predicted."""
        return np.diff(self.store.id_ends).astype(np.int64) - 1

    def records(self, window: int) -> list[int]:
        """Records of a window."""
        return [int(r) for r in self.order[self.ends[window] : self.ends[window + 1]]]

    def read(self, window: int) -> Window:
        """One window, padded at the end with places that nothing is learned from."""
        return self._pack(window, lambda record, place: self.inputs_and_labels(record))

    def fill(self, number: int, out: Window, base: int) -> None:
        """Write a window into `out`, which begins at place `base` of a micro-batch (see `data.windows.Readable`)."""
        window = self.read(number)
        out.tokens[:], out.labels[:] = window.tokens, window.labels
        out.start[:], out.end[:] = window.start + base, window.end + base

    def inputs_and_labels(self, record: int) -> Expanded:
        """Inputs and next-token labels of a record; labels only on answer and EOS."""
        stored, labels = self._masked(record)
        return stored[:-1], labels[1:]

    def _masked(self, record: int) -> Expanded:
        store = self.store
        stored = store.ids[store.id_ends[record] : store.id_ends[record + 1]].astype(np.int64)
        labels = np.where(np.arange(len(stored)) >= store.answer_start[record], stored, IGNORE_INDEX)
        return stored, labels

    def _pack(self, window: int, expand: Callable[[int, int], Expanded]) -> Window:
        """Lay the records out; `expand` gives inputs and labels of a record that begins at a place."""
        empty = padding_window(self.seq_length)
        tokens = empty.tokens
        labels = empty.labels
        start = empty.start
        end = empty.end.copy()
        place = 0
        for record in self.records(window):
            ids, targets = expand(record, place)
            stop = place + len(ids)
            tokens[place:stop] = ids
            labels[place:stop] = targets
            start[place:stop] = place
            end[place:stop] = stop
            place = stop
        # What is left over is a document of its own, without labels.
        start[place:] = place
        return Window(tokens, labels, start, end)
