"""A token store out of parts that other processes wrote: every part is copied to its place by a job of its own.

The bytes are those that `TokenStoreWriter` would write for the same documents, and no process holds more than the lengths of
the documents of one job.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabiomed.data.store import BIN, DOCUMENTS, IDX, MANIFEST, index_header, manifest_of, token_dtype
from megabiomed.ground.errors import DataError
from megabiomed.ground.files import fsync_directory, fsync_tree, remove_tree, write_json
from megabiomed.tokenizer.files import copy_into

JOB_BYTES = 1 << 30
"""Of tokens, about, that a job copies."""
_CHUNK = 1 << 22


@dataclass(frozen=True)
class StorePart:
    """Documents in files.

    Attributes:
        tokens: token ids in the store's type, one document after the other.
        lengths: `.npy`, [documents] tokens of each.
        provenance: one JSON line per document.
        num_documents, num_tokens, provenance_bytes: what must be in them.
    """

    tokens: Path
    lengths: Path
    provenance: Path
    num_documents: int
    num_tokens: int
    provenance_bytes: int


@dataclass(frozen=True)
class CopyJob:
    """Consecutive parts of a store, and how many documents, tokens and bytes of provenance come before them."""

    folder: Path
    parts: tuple[StorePart, ...]
    itemsize: int
    documents: int
    first_document: int
    first_token: int
    first_byte: int


class StoreFromParts:
    """A store that is joined in a temporary folder: run all `jobs`, then `publish`.

    Args:
        path: final folder; must not exist.
        parts: in the order of the store.
        tokenizer: the file of the tokenizer that made the tokens.
        more: what the manifest says besides counts and files.

    Raises:
        DataError: `path` exists.
    """

    def __init__(
        self, path: Path, parts: Sequence[StorePart], tokenizer: Path, vocab_size: int, more: Mapping[str, Any]
    ) -> None:
        if path.exists():
            raise DataError(f"{path} exists already", do="remove it or choose another folder")
        self._path, self._temporary = path, path.with_name(f".{path.name}.building")
        self._tokenizer, self._vocab_size = tokenizer, vocab_size
        self._parts, self._more = parts, more
        self.counts = {
            "documents": sum(part.num_documents for part in parts),
            "tokens": sum(part.num_tokens for part in parts),
        }
        self.jobs = list(self._jobs(np.dtype(token_dtype(vocab_size)).itemsize))
        self._create()

    @property
    def files(self) -> list[Path]:
        """What `publish` needs the hashes of, after the jobs."""
        return [self._temporary / name for name in (BIN, IDX, DOCUMENTS)]

    def _jobs(self, itemsize: int) -> list[CopyJob]:
        jobs = []
        documents = tokens = provenance = 0
        held: list[StorePart] = []
        for part in self._parts:
            held.append(part)
            if sum(each.num_tokens for each in held) * itemsize >= JOB_BYTES or part is self._parts[-1]:
                total = self.counts["documents"]
                jobs.append(CopyJob(self._temporary, tuple(held), itemsize, total, documents, tokens, provenance))
                documents += sum(each.num_documents for each in held)
                tokens += sum(each.num_tokens for each in held)
                provenance += sum(each.provenance_bytes for each in held)
                held = []
        return jobs

    def _create(self) -> None:
        """The files in their final sizes: jobs may write in any order."""
        remove_tree(self._temporary)
        self._temporary.mkdir(parents=True)
        for path in self.files:
            path.touch()
        documents = self.counts["documents"]
        dtype = token_dtype(self._vocab_size)
        os.truncate(self._temporary / BIN, self.counts["tokens"] * np.dtype(dtype).itemsize)
        os.truncate(self._temporary / DOCUMENTS, sum(part.provenance_bytes for part in self._parts))
        header = index_header(dtype, documents)
        with (self._temporary / IDX).open("wb") as file:
            file.write(header)
            file.seek(len(header) + 20 * documents)  # lengths of 4 bytes, pointers and numbers of 8
            file.write(np.int64(documents).tobytes())

    def publish(self, hashes: Mapping[str, str]) -> None:
        """Write the manifest and give the store its name.

        Args:
            hashes: sha256 by name of `files`.
        """
        tokenizer = copy_into(self._temporary, self._tokenizer)
        manifest = manifest_of(tokenizer, self._vocab_size, self.counts, self._more, hashes)
        write_json(self._temporary / MANIFEST, manifest)
        # The content must be on the disk before the name is; see TokenStoreWriter.
        fsync_tree(self._temporary)
        self._temporary.rename(self._path)
        fsync_directory(self._path.parent)


def copy_parts(job: CopyJob) -> int:
    """Write the parts of a job at their places; returns the number of documents. Doing it twice changes nothing.

    Raises:
        DataError: a part is not as long as the job says.
    """
    for part in job.parts:
        _check(part, job.itemsize)
    _copy([part.tokens for part in job.parts], job.folder / BIN, job.first_token * job.itemsize)
    _copy([part.provenance for part in job.parts], job.folder / DOCUMENTS, job.first_byte)
    lengths = np.concatenate([np.load(part.lengths).astype(np.int32) for part in job.parts])
    ends = np.cumsum(lengths, dtype=np.int64)
    begins = (job.first_token + ends - lengths) * job.itemsize
    numbers = np.arange(job.first_document, job.first_document + len(lengths), dtype=np.int64)
    _write_index(job, (lengths, begins, numbers))
    return len(lengths)


def _write_index(job: CopyJob, columns: Sequence[NDArray[Any]]) -> None:
    place = (job.folder / IDX).stat().st_size - 8 - 20 * job.documents
    descriptor = os.open(job.folder / IDX, os.O_WRONLY)
    with os.fdopen(descriptor, "wb") as file:
        for column in columns:
            file.seek(place + job.first_document * column.itemsize)
            file.write(column.tobytes())
            place += job.documents * column.itemsize
        file.flush()
        os.fsync(descriptor)


def _copy(sources: Sequence[Path], target: Path, place: int) -> None:
    # Opened for writing alone: an NFS client then sends the bytes written, and never a page with what it believes to be
    # around them, where another node writes.
    descriptor = os.open(target, os.O_WRONLY)
    with os.fdopen(descriptor, "wb") as file:
        file.seek(place)
        for source in sources:
            with source.open("rb") as read:
                shutil.copyfileobj(read, file, _CHUNK)
        file.flush()
        os.fsync(descriptor)


def _check(part: StorePart, itemsize: int) -> None:
    wanted = {part.tokens: part.num_tokens * itemsize, part.provenance: part.provenance_bytes}
    for file, expected in wanted.items():
        if (size := file.stat().st_size) != expected:
            raise DataError(
                f"{file} is damaged",
                got=f"{size} bytes",
                expected=f"{expected} bytes",
                do="remove the unfinished build and start it again",
            )
