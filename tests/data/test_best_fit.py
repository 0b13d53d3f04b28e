"""Best fit equals its textbook form bin by bin, and is quick for millions of documents."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from megabiomed.data.best_fit import best_fit


def textbook(lengths: list[int], capacity: int) -> list[int]:
    """Filled room of each bin, sorted: one item after the other, longest first, into the fullest bin that has room."""
    filled: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [n for n, room in enumerate(filled) if room + length <= capacity]
        if fitting:
            filled[max(fitting, key=lambda n: filled[n])] += length
        else:
            filled.append(length)
    return sorted(filled)


@settings(max_examples=200, deadline=None)
@given(capacity=st.integers(1, 40), data=st.data())
def test_bins_are_those_of_the_textbook_and_hold_every_item_once(capacity: int, data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, capacity), max_size=60))
    starts, items = best_fit(np.array(lengths, dtype=np.int32), capacity)
    assert sorted(items.tolist()) == list(range(len(lengths)))
    bins = [items[a:b].tolist() for a, b in zip(starts, starts[1:])]
    assert all(bins)
    assert all(each == sorted(each) for each in bins)
    filled = sorted(sum(lengths[item] for item in each) for each in bins)
    assert filled == textbook(lengths, capacity)
    assert max(filled, default=0) <= capacity


def test_bins_of_many_documents_are_full() -> None:
    lengths = np.random.default_rng(0).integers(1, 2049, 200_000)
    starts, _ = best_fit(lengths, 2048)
    assert lengths.sum() / (2048 * (len(starts) - 1)) > 0.997
