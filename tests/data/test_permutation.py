"""The keyed permutation is an exact bijection at every size, computed pointwise, and looks random."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from megabiomed.data.permutation import Permutation


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 3000), key=st.integers(0, 2**32))
def test_permutation_is_a_bijection_with_inverse(n: int, key: int) -> None:
    permutation = Permutation(n, key)
    images = permutation(np.arange(n))
    assert np.array_equal(np.sort(images), np.arange(n))
    assert np.array_equal(permutation.inverse(images), np.arange(n))


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 10**13), index=st.integers(0, 10**13), key=st.integers(0, 9))
def test_permutation_of_a_huge_range_is_computed_pointwise(n: int, index: int, key: int) -> None:
    permutation, index = Permutation(n, key), index % n
    image = int(permutation(index))
    assert 0 <= image < n
    assert int(permutation.inverse(image)) == index


def test_permutations_of_different_keys_differ_and_spread() -> None:
    first, second = Permutation(10_000, 1, 0)(np.arange(10_000)), Permutation(10_000, 1, 1)(np.arange(10_000))
    assert (first == second).mean() < 0.01
    assert abs(np.corrcoef(np.arange(10_000), first)[0, 1]) < 0.05


def test_every_image_is_about_equally_likely() -> None:
    images = np.array([Permutation(5, key)(np.arange(5)) for key in range(2000)])
    counts = np.stack([np.bincount(images[:, place], minlength=5) for place in range(5)])
    # 2000 draws over 5 values: mean 400, standard deviation 18; six of them are never seen by chance.
    assert np.abs(counts - 400).max() < 108


def test_the_key_counts_by_value_not_by_type() -> None:
    plain, numpy = Permutation(1000, 3, 1), Permutation(1000, np.int64(3), np.int32(1))
    assert np.array_equal(plain(np.arange(1000)), numpy(np.arange(1000)))
