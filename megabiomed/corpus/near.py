"""Near duplicates by MinHash and locality-sensitive hashing (Broder 1997), with the library datasketch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from datasketch import MinHash, MinHashLSH
from numpy.typing import NDArray

from megabiomed.corpus.decontaminate import prompt_words

# 64 hash functions estimate a similarity of 0.8 with a standard error of 0.05, in 512 bytes per document on disk.
PERMUTATIONS = 64
# Named, not left to datasketch's default: another version must not drop other papers.
_SCHEME: Literal["affine32"] = "affine32"
SHINGLE = 5
"""Words of a shingle."""
THRESHOLD = 0.8
"""A paper with at least this estimated Jaccard similarity to an earlier one is a near duplicate."""


def signature(text: str) -> NDArray[np.uint64]:
    """[PERMUTATIONS] MinHash of a text's shingles."""
    words = prompt_words(text)
    # A text of fewer words is one shingle.
    shingles = {" ".join(words[n : n + SHINGLE]).encode() for n in range(max(1, len(words) - SHINGLE + 1))}
    sketch = MinHash(num_perm=PERMUTATIONS, seed=1, scheme=_SCHEME)
    sketch.update_batch(shingles)
    return np.asarray(sketch.hashvalues, dtype=np.uint64)


def near_repeated(
    signatures: Sequence[NDArray[np.uint64]], alive: Sequence[NDArray[np.bool_]]
) -> list[NDArray[np.bool_]]:
    """Mark every living document that is a near duplicate of an earlier one that stays.

    The table of the kept documents is in memory: some kilobytes per document.

    Args:
        signatures: per part [documents, PERMUTATIONS].
        alive: per part [documents].
    """
    table = MinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS)
    marks = [np.zeros(len(part), dtype=np.bool_) for part in signatures]
    for number, (part, living) in enumerate(zip(signatures, alive)):
        for row in np.flatnonzero(living).tolist():
            sketch = MinHash(num_perm=PERMUTATIONS, seed=1, scheme=_SCHEME, hashvalues=np.array(part[row]))
            # The table's bands only propose candidates, too many and around the threshold; the signatures decide.
            shares = (float(np.mean(signatures[p][r] == part[row])) for p, r in table.query(sketch))
            if any(share >= THRESHOLD for share in shares):
                marks[number][row] = True
            else:
                # Keys are places, which cannot repeat.
                table.insert((number, row), sketch, check_duplication=False)
    return marks
