"""The sample order is a pure function: every window once an epoch, free of batches and topology."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from megabiomed.data.order import OrderSource, SampleOrder


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=3), seed=st.integers(0, 99))
def test_every_window_comes_once_in_each_epoch_of_its_source(sizes: list[int], seed: int) -> None:
    order = SampleOrder([OrderSource(size) for size in sizes], seed)
    ids = order.sample_ids(0, 4 * len(sizes) * max(sizes))
    for source, size in enumerate(sizes):
        windows = ids[ids[:, 0] == source]
        for epoch in range(3):
            seen = windows[windows[:, 1] == epoch][:, 2]
            assert np.array_equal(np.sort(seen), np.arange(size))


@settings(max_examples=30, deadline=None)
@given(start=st.integers(0, 10**9), count=st.integers(1, 50), cut=st.integers(0, 50))
def test_any_cut_gives_the_same_stream(start: int, count: int, cut: int) -> None:
    order = SampleOrder([OrderSource(1000, 0.99), OrderSource(77, 0.01)], 5)
    cut = min(cut, count)
    whole = order.sample_ids(start, count)
    parts = np.concatenate([order.sample_ids(start, cut), order.sample_ids(start + cut, count - cut)])
    assert np.array_equal(whole, parts)


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 10**9), min_size=1, max_size=4),
    seed=st.integers(0, 2**40),
    first=st.integers(0, 10**12),
)
def test_position_inverts_the_order(sizes: list[int], seed: int, first: int) -> None:
    order = SampleOrder([OrderSource(size, weight) for size, weight in zip(sizes, (3, 2, 0.5, 0.01))], seed)
    for k, (source, epoch, window) in enumerate(order.sample_ids(first, 20).tolist(), start=first):
        assert order.position(source, epoch, window) == k


def test_each_epoch_and_each_seed_has_its_own_order() -> None:
    ids = SampleOrder([OrderSource(500)], 1).sample_ids(0, 1000)[:, 2]
    other = SampleOrder([OrderSource(500)], 2).sample_ids(0, 500)[:, 2]
    assert (ids[:500] == ids[500:]).mean() < 0.05
    assert (ids[:500] == other).mean() < 0.05


def test_the_order_of_released_runs_does_not_change() -> None:
    """A changed value here breaks every resume: raise ORDER_VERSION with it."""
    ids = SampleOrder([OrderSource(1000, 0.99), OrderSource(7, 0.01)], 1234).sample_ids(10**9 + 46, 6)
    assert ids.tolist() == [
        [0, 990000, 205],
        [0, 990000, 273],
        [0, 990000, 397],
        [0, 990000, 621],
        [1, 1428571, 5],
        [0, 990000, 311],
    ]


def test_the_description_names_shares_and_passes() -> None:
    lines = SampleOrder([OrderSource(3000, 3), OrderSource(50, 1)], 0).describe()
    assert lines == [
        "source 0: 75.0000% of the samples, 3,000 windows, read through every 4,000 samples",
        "source 1: 25.0000% of the samples, 50 windows, read through every 200 samples",
    ]
