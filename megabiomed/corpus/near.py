"""Near duplicates by MinHash and locality-sensitive hashing (Broder 1997), with the signatures of the library datasketch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from megabiomed.corpus.decontaminate import prompt_words
from megabiomed.corpus.dedup import halves

# 64 hash functions estimate a similarity of 0.8 with a standard error of 0.05, in 256 bytes per document on disk.
PERMUTATIONS = 64
# Named, not left to datasketch's default: another version must not drop other papers.
_SCHEME: Literal["affine32"] = "affine32"
SHINGLE = 5
"""Words of a shingle."""
THRESHOLD = 0.8
"""A paper with at least this estimated Jaccard similarity to an earlier one is a near duplicate."""
BANDS, BAND_ROWS = 5, 11
"""Papers that agree in all rows of a band are compared: what datasketch chooses for this threshold and size."""


def signature(text: str) -> NDArray[np.uint32]:
    """[PERMUTATIONS] MinHash of a text's shingles."""
    from datasketch import MinHash  # it imports all of scipy, half a second for each process, and few builds need it

    words = prompt_words(text)
    # A text of fewer words is one shingle.
    shingles = {" ".join(words[n : n + SHINGLE]).encode() for n in range(max(1, len(words) - SHINGLE + 1))}
    sketch = MinHash(num_perm=PERMUTATIONS, seed=1, scheme=_SCHEME)
    sketch.update_batch(shingles)
    return np.asarray(sketch.hashvalues, dtype=np.uint32)


def band_keys(signature: NDArray[np.uint32]) -> Iterator[tuple[int, int]]:
    """A 128-bit key for each band; two bands never share one."""
    for band in range(BANDS):
        yield halves(signature[band * BAND_ROWS : (band + 1) * BAND_ROWS].tobytes(), f"near {band}")


def repeats(signatures: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Mark the documents that are near duplicates of an earlier, unmarked one; all of them agree in a band.

    The band only proposes candidates, too many and around the threshold: the signatures decide.

    Args:
        signatures: [documents, PERMUTATIONS], in the order in which documents count.
    """
    marks = np.zeros(len(signatures), dtype=np.bool_)
    kept = np.empty_like(signatures)
    count = 0
    for number, own in enumerate(signatures):
        marks[number] = bool((np.mean(kept[:count] == own, axis=1) >= THRESHOLD).any())
        if not marks[number]:
            kept[count] = own
            count += 1
    return marks
