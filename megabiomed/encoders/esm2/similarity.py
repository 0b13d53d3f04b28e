"""Which proteins are relatives: sequences that share k-mers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

_K = 5
_SHARED = 0.3


def sequence_clusters(sequences: Sequence[str]) -> dict[str, int]:
    """Greedy clusters, longest first (as CD-HIT, Li & Godzik 2006): a sequence joins the first representative that shares
    30 % of its 5-mers. A fast stand-in for alignment identity, meant for splits, not for biology."""
    index: dict[str, list[int]] = defaultdict(list)
    found: dict[str, int] = {}
    for number, sequence in enumerate(sequences):
        kmers = {sequence[i : i + _K] for i in range(max(1, len(sequence) - _K + 1))}
        hits: dict[int, int] = defaultdict(int)
        for kmer in kmers:
            for cluster in index[kmer]:
                hits[cluster] += 1
        near = [c for c, count in hits.items() if count >= _SHARED * len(kmers)]
        found[sequence] = min(near, default=number)
        # Only representatives are indexed: a sequence that joined a cluster attracts no others.
        if not near:
            for kmer in kmers:
                index[kmer].append(number)
    return found
