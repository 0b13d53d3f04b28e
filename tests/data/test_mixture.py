"""Sources get exactly their shares, in every prefix within the proved bound, wherever one looks."""

from __future__ import annotations

from fractions import Fraction
from math import ceil, log2

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from megabiomed.data.mixture import Mixture

WEIGHTS = st.lists(st.floats(1e-6, 1e9), min_size=1, max_size=7)


@settings(max_examples=60, deadline=None)
@given(weights=WEIGHTS)
def test_every_prefix_holds_the_shares_within_the_bound(weights: list[float]) -> None:
    mixture = Mixture(weights)
    source, index = mixture.deal(np.arange(400))
    bound = ceil(log2(len(weights))) / 2
    for number, share in enumerate(mixture.shares):
        counts = np.cumsum(source == number)
        assert np.abs(counts - float(share) * np.arange(1, 401)).max() <= bound + 1e-9
        assert np.array_equal(index[source == number], np.arange(counts[-1]))


@settings(max_examples=60, deadline=None)
@given(weights=WEIGHTS, first=st.integers(0, 10**13))
def test_far_away_samples_are_dealt_exactly_and_found_again(weights: list[float], first: int) -> None:
    mixture = Mixture(weights)
    source, index = mixture.deal(np.arange(first, first + 10))
    bound = Fraction(ceil(log2(len(weights))), 2) + 1
    for k, (number, place) in enumerate(zip(source.tolist(), index.tolist()), start=first):
        assert abs(place - mixture.shares[number] * k) <= bound
        assert mixture.position(number, place) == k


def test_shares_are_those_of_the_weights_as_written() -> None:
    assert Mixture([0.99, 0.01]).shares == [Fraction(99, 100), Fraction(1, 100)]
    source, _ = Mixture([0.7, 0.2, 0.1]).deal(np.arange(10_000))
    assert np.bincount(source).tolist() == [7000, 2000, 1000]


def test_only_the_ratio_of_weights_matters() -> None:
    samples = np.arange(1000)
    assert np.array_equal(Mixture([1, 3]).deal(samples), Mixture([0.25, 0.75]).deal(samples))
