"""Which documents repeat an earlier one: exact, in the order of the corpus, with memory for a sixteenth of the keys."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# 100 million papers are 1.6 GB of keys for each id and several times that while they are sorted; a sixteenth of that fits
# anywhere. Equal keys fall into the same bucket, so the buckets can be looked at one after another.
BUCKETS = 16
SHARED_IDS = {
    "pmc": re.compile(r"[0-9]{1,12}"),
    "pubmed": re.compile(r"[0-9]{1,12}"),
    "doi": re.compile(r"10\.[0-9]{4,9}/\S+"),
    "arxiv": re.compile(r"\S*[0-9]{4}\S*"),
}
"""External ids that name one paper each, and what they look like. What looks otherwise (placeholders) names no paper."""
KEYS = ("id", *SHARED_IDS, "text")
KEY = np.dtype([*((name, "<u8", 2) for name in KEYS), ("split", "<u8"), ("tainted", "?"), ("abstract", "?")])
"""128-bit hashes of a document's ids (0 for none) and of its cleaned text, `split_hash`, whether it contains evaluation
questions, and whether it has only a title and an abstract."""


def split_hash(paper_id: str) -> int:
    """The 64-bit hash that decides the split of a paper; it depends on the paper's id alone."""
    return int.from_bytes(hashlib.blake2b(paper_id.encode(), digest_size=8).digest(), "big")


def held_out(paper_id: str, fraction: float) -> bool:
    """Whether a paper belongs to validation."""
    return split_hash(paper_id) < fraction * 2**64


def key_of(text: str) -> tuple[int, int]:
    """A 128-bit hash; equal texts have equal keys, and others practically never."""
    # Among 10^9 different texts the chance that any two share a key is about 10^-21.
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


def shared_key(kind: str, value: str | None) -> tuple[int, int]:
    """The key of an external id however it is written; (0, 0) when there is none."""
    name = (value or "").strip().lower().removeprefix("https://doi.org/").removeprefix("doi:")
    if not SHARED_IDS[kind].fullmatch(name):
        return 0, 0
    return key_of(f"{kind}:{name.lstrip('0')}")  # 0123 and 123 are the same paper


def text_key(text: str) -> tuple[int, int]:
    """The key of a text without regard to case and white space."""
    return key_of(" ".join(text.lower().split()))


def repeated(
    keys: Sequence[NDArray[np.uint64]],
    counted: Sequence[NDArray[np.bool_]],
    yields: Sequence[NDArray[np.bool_]] | None = None,
) -> list[NDArray[np.bool_]]:
    """Mark every document whose key an earlier document has.

    Args:
        keys: per part [documents, 2] hashes, which may be memory-mapped.
        counted: per part [documents], documents that are compared.
        yields: per part [documents], those that count as later than all others, wherever they are.

    Returns:
        per part [documents]: True where an earlier one is the same.
    """
    marks = [np.zeros(len(part), dtype=np.bool_) for part in keys]
    for bucket in range(BUCKETS):
        rows = [np.flatnonzero(c & (k[:, 0] % BUCKETS == bucket)) for k, c in zip(keys, counted)]
        high = np.concatenate([k[r, 0] for k, r in zip(keys, rows)] or [np.zeros(0, np.uint64)])
        low = np.concatenate([k[r, 1] for k, r in zip(keys, rows)] or [np.zeros(0, np.uint64)])
        late = np.concatenate([y[r] for y, r in zip(yields, rows)]) if yields else np.zeros(len(high), np.bool_)
        # lexsort's last key is the most important: equal hashes become neighbours, among them those that yield come last,
        # and then the order of the corpus decides. So the first of a run of equal hashes is the one that stays.
        order = np.lexsort((np.arange(len(high)), late, low, high))
        same = np.zeros(len(high), dtype=np.bool_)
        before, after = order[:-1], order[1:]
        same[after] = (high[before] == high[after]) & (low[before] == low[after])
        start = 0
        for part, row in zip(marks, rows):
            part[row] = same[start : start + len(row)]
            start += len(row)
    return marks
