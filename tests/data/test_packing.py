"""Packed windows equal a slow, obvious construction; windows of a micro-batch never see each other."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from megabiomed.data.packing import IGNORE_INDEX, MicroBatch, pack_window, padding_window


@settings(max_examples=100, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=20), data=st.data())
def test_windows_equal_the_obvious_construction(lengths: list[int], data: st.DataObject) -> None:
    ends = np.cumsum(lengths)
    size = data.draw(st.integers(1, int(ends[-1])))
    stream = np.arange(100, 100 + size + 1)
    window = pack_window(stream, ends)
    document = [int(np.searchsorted(ends, i, side="right")) for i in range(size + 1)]
    for i in range(size):
        mine = [j for j in range(size) if document[j] == document[i]]
        assert (window.start[i], window.end[i]) == (min(mine), max(mine) + 1)
        assert window.labels[i] == (stream[i + 1] if document[i + 1] == document[i] else IGNORE_INDEX)
        assert window.tokens[i] == stream[i]


def test_micro_batches_shift_bounds_and_restart_positions() -> None:
    first = pack_window(np.arange(5), np.array([2]))
    second = pack_window(np.arange(5), np.array([], dtype=np.int64))
    batch = MicroBatch.from_windows([first, second])
    assert batch.documents.start.tolist() == [0, 0, 2, 2, 4, 4, 4, 4]
    assert batch.documents.end.tolist() == [2, 2, 4, 4, 8, 8, 8, 8]
    assert batch.positions.tolist() == [0, 1, 0, 1, 0, 1, 2, 3]
    assert batch.labels.tolist() == [1, IGNORE_INDEX, 3, 4, 1, 2, 3, 4]
    assert batch.num_loss_tokens == 7


def test_padding_counts_nothing() -> None:
    assert MicroBatch.from_windows([padding_window(8)]).num_loss_tokens == 0
