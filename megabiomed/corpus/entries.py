"""Entries: one for each key of each document, written by shard and read by range of keys.

Equal keys are in the same range, so ranges are resolved one by one: a process that looks for repeated papers holds the keys
of one range, not those of the corpus. A shard's entries are in files of bounded size, each sorted by key.
"""

from __future__ import annotations

import io
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabiomed.corpus.dedup import KINDS
from megabiomed.ground.errors import DataError
from megabiomed.ground.files import write_atomic

ENTRY = np.dtype([("high", "<u8"), ("low", "<u8"), ("place", "<u8")])
"""A 128-bit key, and what has it."""
RANGES = 1024
"""Of keys, by their highest bits: a corpus of 200 million papers has some 3 million entries in each, 72 MB."""
FILE_ENTRIES = 1 << 20
"""Entries that a process keeps before it writes a file, 24 MiB."""
_RANGE_SHIFT = np.uint64(64 - RANGES.bit_length() + 1)
_KIND_BITS = 3
_ROW_BITS = 36
_SHARD_BITS = 24
LATE = np.uint64(1 << (_KIND_BITS + _ROW_BITS + _SHARD_BITS))
"""The highest bit of a place: set for abstracts, which count as later than every full text."""


def place_of(shard: int, row: int, kind: int, late: bool) -> int:
    """A document (`row` of a shard) and a kind of key as one number; numbers ascend in the order in which documents count.

    Raises:
        DataError: there are more source files, or documents in one, than the number has bits for.
    """
    if shard >> _SHARD_BITS or row >> _ROW_BITS:
        limits = f"{1 << _SHARD_BITS:,} files of {1 << _ROW_BITS:,} papers"
        raise DataError("the corpus has too many papers", got=f"file {shard}, paper {row}", expected=limits)
    return (late << 63) | (shard << (_ROW_BITS + _KIND_BITS)) | (row << _KIND_BITS) | kind


def kind_of(places: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The index in KINDS."""
    return np.asarray(places & np.uint64((1 << _KIND_BITS) - 1))


def row_of(places: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The document in its shard."""
    return np.asarray((places >> np.uint64(_KIND_BITS)) & np.uint64((1 << _ROW_BITS) - 1), np.int64)


def shard_of(places: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The number of the source file."""
    return np.asarray((places & ~LATE) >> np.uint64(_ROW_BITS + _KIND_BITS), np.int64)


def shard_folder(clean: Path, shard: int) -> Path:
    """Of the cleaned parts and entries of a source file."""
    return clean / f"shard-{shard:05d}"


class EntryWriter:
    """Writes the entries of a shard.

    Attributes:
        shard: its number.
        files, entries: written so far.
    """

    def __init__(self, clean: Path, shard: int) -> None:
        self._folder, self.shard = shard_folder(clean, shard), shard
        self._held = array("Q")  # three numbers for each entry; tuples would take seven times the memory
        self.files = 0
        self.entries = 0

    def add(self, row: int, kind: str, key: tuple[int, int], late: bool) -> None:
        """Add a key of a document."""
        self._held.extend((*key, place_of(self.shard, row, KINDS.index(kind), late)))
        if len(self._held) >= 3 * FILE_ENTRIES:
            self.flush()

    def flush(self) -> None:
        """Write what is held."""
        if not self._held:
            return
        entries = np.frombuffer(self._held, dtype=ENTRY)
        entries = entries[np.lexsort((entries["place"], entries["low"], entries["high"]))]
        ranges = (entries["high"] >> _RANGE_SHIFT).astype(np.int64)
        ends = np.searchsorted(ranges, np.arange(RANGES + 1))
        save_array(_entry_file(self._folder, self.files), entries)
        save_array(_offset_file(self._folder, self.files), ends.astype(np.int64))
        self.files += 1
        self.entries += len(entries)
        self._held = array("Q")


def read_range(clean: Path, files: tuple[int, ...], first: int, last: int) -> NDArray[Any]:
    """The entries of ranges [first, last), of all shards; in no order.

    Args:
        clean: folder of the shards.
        files: of each shard, how many files of entries it has.
    """
    return np.concatenate([np.zeros(0, ENTRY), *_pieces(clean, files, first, last)])


def _pieces(clean: Path, files: tuple[int, ...], first: int, last: int) -> Iterator[NDArray[Any]]:
    for shard, count in enumerate(files):
        folder = shard_folder(clean, shard)
        for number in range(count):
            ends = np.load(_offset_file(folder, number))
            # Mapped: only the pages of these ranges are read.
            yield np.load(_entry_file(folder, number), mmap_mode="r")[ends[first] : ends[last]]


def save_array(file: Path, array: NDArray[Any]) -> None:
    """`np.save` that a crash leaves whole or undone."""
    held = io.BytesIO()
    np.save(held, array)
    write_atomic(file, held.getvalue())


def _entry_file(folder: Path, number: int) -> Path:
    return folder / f"entries-{number:05d}.npy"


def _offset_file(folder: Path, number: int) -> Path:
    return folder / f"entries-{number:05d}.offsets.npy"
