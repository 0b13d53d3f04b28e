"""The files that cleaning a source file writes: parts of text, what decides about their documents, and entries of keys.

A part holds its texts one after another, and the lines of provenance as the stores will have them: what is serialised here
is copied from then on, and nothing is parsed again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from megabiomed.corpus.decontaminate import Contamination
from megabiomed.corpus.dedup import KEY, SHARED_IDS, key_of, shared_key, split_hash, text_key
from megabiomed.corpus.duplicates import SIGNATURES
from megabiomed.corpus.entries import EntryWriter, shard_folder
from megabiomed.corpus.near import band_keys, signature
from megabiomed.corpus.records import Paper
from megabiomed.ground.files import read_json

# A kill costs at most one part of work, and each part is several files: smaller parts would make millions of files out of a
# full S2ORC, which the file systems of clusters handle badly.
PART_CHARACTERS = 64_000_000
"""Characters of a cleaned part: the unit of tokenizing and of its resume."""


ROW = np.dtype([("text", "<u8"), ("origin", "<u8"), ("kind", "<u4")])
"""Of a document: bytes of its text and of its line of provenance, and its number in `KindTable`."""
Kind = tuple[str, str, int | None, tuple[str, ...]]
"""Source, licence, year and fields of study of documents."""


def text_file(part: Path) -> Path:
    """The texts of a cleaned part, UTF-8, without anything between them."""
    return part.with_name(f"{part.name}.txt")


def origin_file(part: Path) -> Path:
    """A JSON line of provenance for each document."""
    return part.with_name(f"{part.name}.origins.jsonl")


def row_file(part: Path) -> Path:
    """How long these are, as ROW."""
    return part.with_name(f"{part.name}.rows.npy")


def kind_file(part: Path) -> Path:
    """The kinds of documents that the part has, as JSON."""
    return part.with_name(f"{part.name}.kinds.json")


def key_file(part: Path) -> Path:
    """What decides about them, as KEY."""
    return part.with_name(f"{part.name}.keys.npy")


def split_file(part: Path) -> Path:
    """What was decided."""
    return part.with_name(f"{part.name}.split.npy")


def read_texts(part: Path, wanted: Sequence[bool]) -> Iterator[str]:
    """The texts of those documents of a part that are wanted."""
    lengths = np.load(row_file(part))["text"].tolist()
    with text_file(part).open("rb") as file:
        for length, read in zip(lengths, wanted, strict=True):
            if read:
                yield file.read(length).decode()
            else:
                file.seek(length, os.SEEK_CUR)


def read_kinds(part: Path) -> list[Kind]:
    """What stands in a part's `kind_file`."""
    return [
        (source, licence, year, tuple(fields)) for source, licence, year, fields in read_json(kind_file(part), list)
    ]


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
        self._rows: list[tuple[int, int, int]] = []
        self._kinds: dict[Kind, int] = {}
        self._texts: IO[bytes] | None = None
        self._origins: IO[bytes] | None = None
        self._signatures = (self._folder / SIGNATURES).open("wb") if near else None

    def add(self, paper: Paper, text: str) -> None:
        """Write one paper, in a new part when the last one is full."""
        if self._characters >= PART_CHARACTERS:
            self._begin_part()
        assert self._texts is not None, "a part has begun"
        assert self._origins is not None, "a part has begun"
        # Travels with the document to the store, where `data trace` finds the paper in its file again.
        origin = {"paper_id": paper.paper_id, "source": paper.source, "line": paper.line, "offset": paper.offset}
        more: dict[str, Any] = {"year": paper.year} if paper.year is not None else {}
        more |= {"fields": paper.fields} if paper.fields else {}
        more |= {"licence": paper.licence} if paper.licence else {}
        kind = (paper.source, paper.licence, paper.year, paper.fields)
        number = self._kinds.setdefault(kind, len(self._kinds))
        text_bytes = self._texts.write(text.encode())
        line = json.dumps({**origin, "ids": paper.ids, **more}, ensure_ascii=False) + "\n"
        self._rows.append((text_bytes, self._origins.write(line.encode()), number))
        items = self._contamination.find(text) if self._contamination else []
        if items:
            self.tainted.append({**origin, "items": items})
        abstract = paper.is_abstract
        self._keys.append((split_hash(paper.paper_id), bool(items), abstract))
        for name, key in self._keys_of(paper, text):
            self.entries.add(self._row, name, key, late=abstract)
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
        part = self._folder / self.names[-1]
        self._texts, self._origins = text_file(part).open("wb"), origin_file(part).open("wb")
        self._characters = 0

    def _end_part(self) -> None:
        if self._texts is None or self._origins is None:
            return
        self._texts.close()
        self._origins.close()
        part = self._folder / self.names[-1]
        np.save(key_file(part), np.array(self._keys, dtype=KEY))
        np.save(row_file(part), np.array(self._rows, dtype=ROW))
        kind_file(part).write_text(json.dumps(list(self._kinds)), encoding="utf-8")
        self._keys.clear()
        self._rows.clear()
        self._kinds.clear()
