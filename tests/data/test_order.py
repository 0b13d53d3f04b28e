"""The sample order is a pure function: a bijection in every epoch, exact proportions, and free of batches and topology."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megabiomed.data.order import OrderSource, SampleOrder
from megabiomed.data.permutation import Permutation
from megabiomed.errors import ConfigError


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 3000), key=st.integers(0, 2**32))
def test_permutation_is_a_bijection_with_inverse(n: int, key: int) -> None:
    permutation = Permutation(n, key)
    images = permutation(np.arange(n))
    assert np.array_equal(np.sort(images), np.arange(n))
    assert np.array_equal(permutation.inverse(images), np.arange(n))


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 2**45), index=st.integers(0, 2**45), key=st.integers(0, 9))
def test_permutation_of_a_huge_range_is_computed_pointwise(n: int, index: int, key: int) -> None:
    permutation, index = Permutation(n, key), index % n
    image = int(permutation(index))
    assert 0 <= image < n
    assert int(permutation.inverse(image)) == index


def test_permutations_of_different_keys_differ_and_spread() -> None:
    first, second = Permutation(10_000, 1, 0)(np.arange(10_000)), Permutation(10_000, 1, 1)(np.arange(10_000))
    assert (first == second).mean() < 0.01
    assert abs(np.corrcoef(np.arange(10_000), first)[0, 1]) < 0.05


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


@pytest.mark.parametrize("weights", [(0.99, 0.01), (3, 2), (0.5, 0.3, 0.2), (1,)])
def test_proportions_hold_in_every_prefix(weights: tuple[float, ...]) -> None:
    order = SampleOrder([OrderSource(50, weight) for weight in weights], 1)
    chosen = order.sample_ids(0, 700)[:, 0]
    for source, weight in enumerate(weights):
        share = weight / sum(weights)
        counts = np.cumsum(chosen == source)
        assert np.abs(counts - share * np.arange(1, 701)).max() <= max(1.0, len(weights) - 1)


def test_position_inverts_the_order() -> None:
    order = SampleOrder([OrderSource(40, 3), OrderSource(11, 2)], 9)
    for k, (source, epoch, window) in enumerate(order.sample_ids(0, 200).tolist()):
        assert order.position(source, epoch, window) == k


def test_weights_without_a_common_period_are_refused() -> None:
    with pytest.raises(ConfigError, match="round the weights"):
        SampleOrder([OrderSource(5, 0.1234567891), OrderSource(5, 0.9876543217)], 0)
