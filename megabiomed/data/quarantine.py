"""Documents that are masked out of the loss: `quarantine.jsonl` in the folder of a run.

Order and numbers of the samples stay: a window with a masked document is read as before, and its other documents are
learned. Masked tokens do not count in the mean of a batch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from megabiomed.data.packing import IGNORE_INDEX, MicroBatch
from megabiomed.data.parts import SourceDocuments
from megabiomed.ground.errors import DataError
from megabiomed.ground.json_lines import parsed_object

QUARANTINE = "quarantine.jsonl"
_KEYS = {"paper_id", "reason"}
_DO = 'write lines such as {"paper_id": "PMC123", "reason": "garbage"}'

Places = list[tuple[int, int]]
"""Pieces of a window, each from a place up to another."""


@dataclass(frozen=True)
class Quarantine:
    """What is masked.

    Attributes:
        papers: as the file names them, sorted.
        places: masked pieces of windows, by source and window.
    """

    papers: list[str] = field(default_factory=list)
    places: dict[tuple[int, int], Places] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path, sources: Sequence[SourceDocuments]) -> Quarantine:
        """Read the file of a run folder, if there is one, and look its papers up.

        Raises:
            DataError: a line is wrong, or no source has the paper.
        """
        entries = read_entries(folder / QUARANTINE)
        found, unknown = cls.of_papers(sorted(entries), sources)
        if unknown:
            raise DataError(
                f"{folder / QUARANTINE}, line {entries[unknown[0]]}: no training data of this run has the paper",
                got=unknown[0], do="correct the id, or remove the line",
            )  # fmt: skip
        return found

    @classmethod
    def of_papers(cls, papers: list[str], sources: Sequence[SourceDocuments]) -> tuple[Quarantine, list[str]]:
        """What masks these papers, as a checkpoint or an event names them; and those that no source has."""
        known: set[str] = set()
        places: dict[tuple[int, int], Places] = {}
        for source, documents in enumerate(sources if papers else ()):
            for name, document in documents.find(papers):
                known.add(name)
                for window in documents.windows(document):
                    held = places.setdefault((source, window), [])
                    mine = (part for part in documents.parts(window) if part.document == document)
                    held += [(part.place, part.place + part.size) for part in mine]
        found = cls(papers, {key: sorted(set(held)) for key, held in places.items()})
        return found, [name for name in papers if name not in known]

    def masked(self, batch: MicroBatch, samples: Sequence[Sequence[int]], seq_length: int) -> MicroBatch:
        """A micro-batch without the labels of masked documents.

        Args:
            samples: its (source, epoch, window).
        """
        hidden = [
            (row * seq_length + low, row * seq_length + high)
            for row, (source, _, window) in enumerate(samples)
            for low, high in self.places.get((source, window), ())
        ]
        if not hidden:
            return batch
        labels = batch.labels.clone()
        for low, high in hidden:
            labels[low:high] = IGNORE_INDEX
        return replace(batch, labels=labels, num_loss_tokens=int((labels != IGNORE_INDEX).sum()))

    def marks(self, ids: Sequence[Sequence[int]]) -> dict[int, bytes]:
        """What the chain hash of the samples takes in besides their ids: by row, for rows with masked documents."""
        if not self.places:
            return {}
        found = {row: self.places.get((source, window)) for row, (source, _, window) in enumerate(ids)}
        return {row: _mark(held) for row, held in found.items() if held}

    def note(self) -> list[str]:
        """A line for the operator, where anything is masked."""
        if not self.papers:
            return []
        shown = ", ".join(self.papers[:5]) + (f" and {len(self.papers) - 5} more" if len(self.papers) > 5 else "")
        return [f"{QUARANTINE}: masked out of the loss: {shown}, in {len(self.places):,} windows"]

    def to_json(self) -> list[Any]:
        """For another rank."""
        return [self.papers, [[*key, held] for key, held in self.places.items()]]

    @classmethod
    def from_json(cls, value: list[Any]) -> Quarantine:
        """Inverse of `to_json`."""
        papers, places = value
        return cls(papers, {(source, window): [(low, high) for low, high in held] for source, window, held in places})


def read_entries(file: Path) -> dict[str, int]:
    """The papers of a file, each with the number of its first line; a missing file has none.

    Raises:
        DataError: a line is no entry.
    """
    found: dict[str, int] = {}
    for number, line in enumerate(file.read_bytes().splitlines() if file.is_file() else [], 1):
        if not line.strip():
            continue
        entry = parsed_object(line)
        paper = None if entry is None else entry.get("paper_id")
        if entry is None or not isinstance(paper, str) or not paper:
            got = line[:80].decode(errors="replace")
            raise DataError(f"{file}, line {number} names no paper", got=got, expected="a JSON object", do=_DO)
        if unknown := sorted(set(entry) - _KEYS):
            raise DataError(
                f"{file}, line {number} has unknown keys",
                got=", ".join(unknown),
                expected="paper_id and reason",
                do=_DO,
            )
        found.setdefault(paper, number)
    return found


def add_entry(folder: Path, paper: str, reason: str) -> bool:
    """Add a paper to the file of a run folder; False where it is there already. Raises as `read_entries`."""
    file = folder / QUARANTINE
    if paper in read_entries(file):
        return False
    text = file.read_text() if file.is_file() else ""
    gap = "\n" if text and not text.endswith("\n") else ""
    with file.open("a") as out:
        out.write(gap + json.dumps({"paper_id": paper, "reason": reason}, ensure_ascii=False) + "\n")
    return True


def _mark(places: Places) -> bytes:
    return b"masked" + hashlib.blake2b(json.dumps(places).encode(), digest_size=16).digest()
