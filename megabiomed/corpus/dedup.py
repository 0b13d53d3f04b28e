"""Which documents came before: exact, in the order of the corpus, with memory for one part in sixteen of the keys."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BUCKETS = 16
KEY = np.dtype([("id", "<u8", 2), ("text", "<u8", 2), ("split", "<u8"), ("tainted", "?")])
"""128-bit hashes of a document's id and of its cleaned text, `split_hash`, and whether it holds evaluation questions."""


def split_hash(paper_id: str) -> int:
    """The 64-bit hash that decides the split of a paper: nothing but its id matters."""
    return int.from_bytes(hashlib.blake2b(paper_id.encode(), digest_size=8).digest(), "big")


def held_out(paper_id: str, fraction: float) -> bool:
    """Whether a paper belongs to validation."""
    return split_hash(paper_id) < fraction * 2**64


def key_of(text: str) -> tuple[int, int]:
    """A 128-bit hash; equal texts have equal keys, and others practically never."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


def text_key(text: str) -> tuple[int, int]:
    """The key of a text without regard to case and white space."""
    return key_of(" ".join(text.lower().split()))


def repeated(keys: Sequence[NDArray[np.uint64]], alive: Sequence[NDArray[np.bool_]]) -> list[NDArray[np.bool_]]:
    """Mark every document whose key an earlier living document has.

    Args:
        keys: per part [documents, 2] hashes, which may be memory-mapped.
        alive: per part [documents], documents that still count.

    Returns:
        per part [documents]: True where an earlier one is the same.
    """
    found = [np.zeros(len(part), dtype=np.bool_) for part in keys]
    for bucket in range(BUCKETS):
        rows = [np.flatnonzero(a & (k[:, 0] % BUCKETS == bucket)) for k, a in zip(keys, alive)]
        high = np.concatenate([k[r, 0] for k, r in zip(keys, rows)] or [np.zeros(0, np.uint64)])
        low = np.concatenate([k[r, 1] for k, r in zip(keys, rows)] or [np.zeros(0, np.uint64)])
        order = np.lexsort((np.arange(len(high)), low, high))
        same = np.zeros(len(high), dtype=np.bool_)
        before, after = order[:-1], order[1:]
        same[after] = (high[before] == high[after]) & (low[before] == low[after])
        start = 0
        for part, row in zip(found, rows):
            part[row] = same[start : start + len(row)]
            start += len(row)
    return found
