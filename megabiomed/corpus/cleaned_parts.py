"""The files that cleaning a source file writes: parts of text, what decides about their documents, and entries of keys."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from megabiomed.corpus.decontaminate import Contamination
from megabiomed.corpus.dedup import KEY, SHARED_IDS, key_of, shared_key, split_hash, text_key
from megabiomed.corpus.duplicates import SIGNATURES
from megabiomed.corpus.entries import EntryWriter, shard_folder
from megabiomed.corpus.near import band_keys, signature
from megabiomed.corpus.records import Paper

# A kill costs at most one part of work, and each part is several files: smaller parts would make millions of files out of a
# full S2ORC, which the file systems of clusters handle badly.
PART_CHARACTERS = 64_000_000
"""Characters of a cleaned part: the unit of tokenizing and of its resume."""


def text_file(part: Path) -> Path:
    """The documents of a cleaned part."""
    return part.with_name(f"{part.name}.jsonl")


def key_file(part: Path) -> Path:
    """What decides about them, as KEY."""
    return part.with_name(f"{part.name}.keys.npy")


def split_file(part: Path) -> Path:
    """What was decided."""
    return part.with_name(f"{part.name}.split.npy")


def read_part(part: Path) -> Iterator[dict[str, Any]]:
    """The documents of a cleaned part."""
    with part.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


class PartWriter:
    """Writes the cleaned papers of a source file; memory is that of a part's keys and a file of entries.

    Args:
        clean: folder of the shards.
        shard: number of the source file.
        contamination: what to look for in the papers; None for nothing.
        exact, near: whether equal and similar texts will be looked for.

    Attributes:
        names: of the parts, in order.
        tainted: papers with evaluation questions: where each is from, and what was found in it.
        entries: of keys.
    """

    def __init__(self, clean: Path, shard: int, contamination: Contamination | None, exact: bool, near: bool) -> None:
        self._folder = shard_folder(clean, shard)
        self._contamination = contamination
        self._exact = exact
        self.names: list[str] = []
        self.tainted: list[dict[str, Any]] = []
        self.entries = EntryWriter(clean, shard)
        self._keys: list[tuple[int, bool, bool]] = []
        self._characters = PART_CHARACTERS
        self._row = 0
        self._file: IO[str] | None = None
        self._signatures = (self._folder / SIGNATURES).open("wb") if near else None

    def add(self, paper: Paper, text: str) -> None:
        """Write one paper, in a new part when the last one is full."""
        if self._characters >= PART_CHARACTERS:
            self._begin_part()
        assert self._file is not None, "a part has begun"
        # Travels with the document to the store, where `data trace` finds the paper in its file again.
        origin = {"paper_id": paper.paper_id, "source": paper.source, "line": paper.line, "offset": paper.offset}
        more: dict[str, Any] = {"year": paper.year} if paper.year is not None else {}
        more |= {"fields": paper.fields} if paper.fields else {}
        more |= {"licence": paper.licence} if paper.licence else {}
        self._file.write(json.dumps({"text": text, **origin, "ids": paper.ids, **more}, ensure_ascii=False) + "\n")
        items = self._contamination.find(text) if self._contamination else []
        if items:
            self.tainted.append({**origin, "items": items})
        abstract = paper.is_abstract
        self._keys.append((split_hash(paper.paper_id), bool(items), abstract))
        for kind, key in self._keys_of(paper, text):
            self.entries.add(self._row, kind, key, late=abstract)
        self._characters += len(text)
        self._row += 1

    def _keys_of(self, paper: Paper, text: str) -> Iterator[tuple[str, tuple[int, int]]]:
        yield "id", key_of("id", paper.paper_id)
        for kind in SHARED_IDS:
            if key := shared_key(kind, paper.ids.get(kind)):
                yield kind, key
        if self._exact:
            yield "text", text_key(text)
        if self._signatures is not None:
            sketch = signature(text)
            self._signatures.write(sketch.tobytes())
            for key in band_keys(sketch):
                yield "near", key

    def close(self) -> None:
        """Write what is still held."""
        self._end_part()
        self.entries.flush()
        if self._signatures is not None:
            self._signatures.close()

    def _begin_part(self) -> None:
        self._end_part()
        self.names.append(f"part-{len(self.names):05d}")
        self._file = text_file(self._folder / self.names[-1]).open("w", encoding="utf-8")
        self._characters = 0

    def _end_part(self) -> None:
        if self._file is not None:
            self._file.close()
            np.save(key_file(self._folder / self.names[-1]), np.array(self._keys, dtype=KEY))
            self._keys.clear()
