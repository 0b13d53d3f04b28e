"""Which source each sample of a mixture comes from: exact shares, every answer computed directly, without table or replay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class _Split:
    """A node of the tree: `share` of its samples goes left; a leaf is the number of a source."""

    share: Fraction
    left: _Split | int
    right: _Split | int


class Mixture:
    """Deals the samples 0, 1, 2, ... to sources in exact shares.

    The sources are the leaves of a balanced binary tree. Of the first m samples of a node, floor(m p + 1/2) go left, where
    p is the exact rational share of the left side; this count grows by 0 or 1 with each sample, so every sample goes to
    exactly one source. A node that is off its share by e has children off by at most p e + 1/2. After any number of
    samples every source therefore has its share within ceil(log2(sources)) / 2: within 1/2 for two sources, within 1 for
    up to four.

    Args:
        weights: relative shares, all positive; decimal fractions are taken as written (0.1 is one tenth).
    """

    def __init__(self, weights: Sequence[float]) -> None:
        assert weights
        assert min(weights) > 0
        # By way of text: the float 0.1 is not one tenth, and the shares would differ from those that were written.
        exact = [Fraction(str(weight)) for weight in weights]
        self.shares = [weight / sum(exact) for weight in exact]
        self._tree = _tree(self.shares, 0)

    def deal(self, samples: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Source of each sample, and how many samples that source got before it; both of the shape [count] of `samples`."""
        source, index = np.empty_like(samples), np.empty_like(samples)
        # All samples go down the tree together, one array operation per node, whatever their number.
        pending = [(self._tree, samples, np.arange(len(samples)))]
        while pending:
            node, numbers, rows = pending.pop()
            if isinstance(node, int):
                source[rows], index[rows] = node, numbers
                continue
            # A sample goes left exactly where the rounded count of the left side grows with it.
            before = _rounded(numbers, node.share)
            left = _rounded(numbers + 1, node.share) > before
            pending.append((node.left, before[left], rows[left]))
            pending.append((node.right, (numbers - before)[~left], rows[~left]))
        return source, index

    def position(self, source: int, index: int) -> int:
        """The sample at which `source` is dealt its sample number `index` (inverse of `deal`)."""
        for share, left in reversed(_path(self._tree, source, len(self.shares))):
            # The sample whose dealing brings this side's rounded count from `index` to `index + 1`.
            if left:
                index = -((2 * index + 1) * share.denominator // (-2 * share.numerator)) - 1
            else:
                index = (2 * index + 1) * share.denominator // (2 * (share.denominator - share.numerator))
        return index


def _tree(shares: Sequence[Fraction], first: int) -> _Split | int:
    if len(shares) == 1:
        return first
    middle = len(shares) // 2
    left = sum(shares[:middle], Fraction(0)) / sum(shares, Fraction(0))
    return _Split(left, _tree(shares[:middle], first), _tree(shares[middle:], first + middle))


def _path(node: _Split | int, source: int, count: int) -> list[tuple[Fraction, bool]]:
    """(left share, whether the path goes left) from the root to a source."""
    path, first = [], 0
    while isinstance(node, _Split):
        middle = count // 2
        left = source < first + middle
        path.append((node.share, left))
        if left:
            node, count = node.left, middle
        else:
            node = node.right
            first, count = first + middle, count - middle
    return path


def _rounded(numbers: NDArray[np.int64], share: Fraction) -> NDArray[np.int64]:
    """floor(m * share + 1/2), exact: in Python's integers where 64 bits would overflow."""
    # Python's integers are much slower, and needed only for shares with many digits or very large sample numbers.
    largest = int(numbers.max(initial=0))
    exact = numbers if 2 * (largest + 1) * share.denominator < 1 << 63 else numbers.astype(object)
    return ((2 * exact * share.numerator + share.denominator) // (2 * share.denominator)).astype(np.int64)
