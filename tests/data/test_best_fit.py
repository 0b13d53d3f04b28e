"""Best fit equals its textbook form bin by bin, and is quick for millions of documents."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from megabiomed.data.best_fit import MAX_PADDING, best_fit, poorly_filled


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


@settings(max_examples=200, deadline=None)
@given(capacity=st.integers(1, 20), full=st.integers(0, 300), data=st.data())
def test_no_more_bins_are_taken_apart_than_it_needs(capacity: int, full: int, data: st.DataObject) -> None:
    filled = np.array(data.draw(st.lists(st.integers(1, capacity), max_size=30)), np.int64)
    found = poorly_filled(filled, capacity, full)
    assert (np.diff(found) > 0).all()

    def padding(bins: np.ndarray) -> tuple[float, int]:
        windows = full + len(filled) - len(bins) - (-int(filled[bins].sum()) // capacity)
        room = windows * capacity - full * capacity - int(filled.sum())
        return room / max(1, windows * capacity), windows

    emptiest = np.argsort(filled, kind="stable")
    ways = [padding(emptiest[:number]) for number in range(len(filled) + 1)]
    enough = [number for number, (share, _) in enumerate(ways) if share <= MAX_PADDING]
    fewest = min(windows for _, windows in ways)
    most = next(number for number, (_, windows) in enumerate(ways) if windows == fewest)
    assert len(found) == (enough[0] if enough else most)
    assert sorted(filled[found].tolist()) == sorted(filled.tolist())[: len(found)]
