"""A keyed permutation of range(n) in O(1) memory: a Feistel network with cycle walking (Black & Rogaway 2002)."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

# With truly random round functions four rounds suffice (Luby & Rackoff 1988); two more, because ours is a cheap hash.
_ROUNDS = 6
_U64 = np.uint64


class Permutation:
    """A pseudo-random bijection of range(n), fixed by its key; any element and its inverse are computed directly.

    Args:
        n: size, 1 to 2^62.
        key: any integers that name the permutation, e.g. (seed, source, epoch).
    """

    def __init__(self, n: int, *key: int) -> None:
        assert 1 <= n <= 1 << 62
        self.n = n
        self._half = max(1, ((n - 1).bit_length() + 1) // 2)
        self._mask = _U64((1 << self._half) - 1)
        digest = hashlib.blake2b(repr(tuple(map(int, key))).encode(), digest_size=8 * _ROUNDS).digest()
        self._keys = np.frombuffer(digest, dtype="<u8").astype(np.uint64)

    def __call__(self, indices: NDArray[np.int64] | int) -> NDArray[np.int64]:
        """Images of `indices` (each in range(n)), same shape."""
        return self._walk(indices, self._keys, inverse=False)

    def inverse(self, images: NDArray[np.int64] | int) -> NDArray[np.int64]:
        """Indices whose images are given."""
        return self._walk(images, self._keys[::-1], inverse=True)

    def _walk(self, values: NDArray[np.int64] | int, keys: NDArray[np.uint64], inverse: bool) -> NDArray[np.int64]:
        # The network permutes a power of four >= n; values that land outside are sent through it again (on average
        # fewer than four times in all) until they are inside, which keeps the map a bijection of range(n). Only values that
        # start inside may enter: others could go round a cycle that never comes inside.
        given = np.atleast_1d(np.asarray(values))
        assert given.size == 0 or (given.min() >= 0 and given.max() < self.n), f"outside range({self.n})"
        out = self._network(given.astype(np.uint64), keys, inverse)
        outside = np.flatnonzero(out >= self.n)
        while outside.size:
            out[outside] = self._network(out[outside], keys, inverse)
            outside = outside[out[outside] >= self.n]
        return out.astype(np.int64).reshape(np.shape(values))

    def _network(self, x: NDArray[np.uint64], keys: NDArray[np.uint64], inverse: bool) -> NDArray[np.uint64]:
        half, mask = _U64(self._half), self._mask
        left, right = x >> half, x & mask
        # A Feistel network undoes itself with the keys in reverse order and its halves exchanged before and after.
        if inverse:
            left, right = right, left
        for key in keys:
            left, right = right, left ^ (_mix(right + key) & mask)
        if inverse:
            left, right = right, left
        return (left << half) | right


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele et al. 2014): every input bit reaches every output bit."""
    x = (x ^ (x >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> _U64(27))) * _U64(0x94D049BB133111EB)
    return x ^ (x >> _U64(31))
