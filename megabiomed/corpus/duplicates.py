"""Which papers repeat an earlier one, found range by range of keys; a range is a job of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabiomed.corpus.dedup import KINDS
from megabiomed.corpus.entries import LATE, RANGES, kind_of, read_range, row_of, save_array, shard_folder, shard_of
from megabiomed.corpus.near import PERMUTATIONS, repeats
from megabiomed.corpus.pool import count_work

JOB_ENTRIES = 4_000_000
"""Entries that a job should have at most, unless one range has more: 100 MB, and four times that while they are sorted."""
SIGNATURES = "signatures.bin"
"""Of a shard: [documents, PERMUTATIONS] MinHash values of 32 bits."""
_NEAR = KINDS.index("near")


@dataclass(frozen=True)
class RangeJob:
    """Ranges [first, last) of the keys of all shards.

    Attributes:
        clean: folder of the shards.
        files: of each shard, how many files of entries it has.
        output: gets the places of the repeated papers, ascending, without LATE.
    """

    clean: Path
    files: tuple[int, ...]
    first: int
    last: int
    output: Path


def range_jobs(clean: Path, files: Sequence[int], entries: int, folder: Path) -> list[RangeJob]:
    """Jobs over all ranges, their number chosen by that of the entries."""
    count = min(RANGES, max(1, -(-entries // JOB_ENTRIES)))
    edges = [RANGES * number // count for number in range(count + 1)]
    return [
        RangeJob(clean, tuple(files), first, last, folder / f"marks-{number:05d}.npy")
        for number, (first, last) in enumerate(zip(edges, edges[1:]))
    ]


def resolve_range(job: RangeJob) -> Path:
    """Find the repeated papers of a job unless that is done already; returns the file that holds them.

    Of documents with one key the first full text stays, or the first abstract where there is no full text. This order is the
    same for all kinds of keys, so of papers that are connected in a chain, whatever they share, at least one always stays.
    """
    if not job.output.is_file():
        entries = read_range(job.clean, job.files, job.first, job.last)
        count_work(len(entries))
        entries = entries[np.lexsort((entries["place"], entries["low"], entries["high"]))]
        same = np.zeros(len(entries), dtype=np.bool_)
        same[1:] = (entries["high"][1:] == entries["high"][:-1]) & (entries["low"][1:] == entries["low"][:-1])
        near = kind_of(entries["place"]) == _NEAR
        exact = entries["place"][same & ~near]
        marked = np.concatenate([exact, *_near_marks(job.clean, entries["place"], same & near)])
        # Two papers may share several bands.
        save_array(job.output, np.unique(marked & ~LATE))
    return job.output


def _near_marks(clean: Path, places: NDArray[Any], follows: NDArray[np.bool_]) -> Iterator[NDArray[Any]]:
    """The marked places of each band that several documents share.

    Args:
        places: of all entries, sorted by key and place.
        follows: [entries] whether an entry has the same band as the one before.
    """
    # A band begins before a follower that does not stand behind another follower.
    begins = np.flatnonzero(follows & ~np.concatenate(([False], follows[:-1]))) - 1
    ends = np.flatnonzero(follows & ~np.concatenate((follows[1:], [False]))) + 1
    for begin, end in zip(begins.tolist(), ends.tolist()):
        group = places[begin:end]
        yield group[repeats(_signatures(clean, group))]
    _opened.cache_clear()


def _signatures(clean: Path, places: NDArray[Any]) -> NDArray[np.uint32]:
    rows, shards = row_of(places), shard_of(places)
    found = np.empty((len(places), PERMUTATIONS), np.uint32)
    for shard in np.unique(shards).tolist():
        here = shards == shard
        found[here] = _opened(shard_folder(clean, shard) / SIGNATURES)[rows[here]]
    return found


@lru_cache(maxsize=256)
def _opened(file: Path) -> NDArray[np.uint32]:
    """Mapped: candidates are few, and far apart."""
    return np.memmap(file, np.uint32, mode="r").reshape(-1, PERMUTATIONS)
