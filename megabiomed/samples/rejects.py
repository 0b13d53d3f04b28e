"""What is said about records that cannot be used: one JSON object per line, and counts by reason."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megabiomed.ground.files import write_atomic
from megabiomed.ground.json_lines import read_objects

REJECTS = "rejects.jsonl"
_OLDER = "skipped.jsonl"
"""The name in datasets of molecules and proteins made before both kinds of store shared one."""


@dataclass(frozen=True)
class Reject:
    """An entry that is left out, and why."""

    source: str
    ident: str
    reason: str
    detail: str = ""


class Unusable(Exception):
    """Raised for one entry that cannot be read or used; becomes a `Reject`."""

    def __init__(self, reason: str, detail: object = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, str(detail)[:200]

    def reject(self, source: str, ident: str) -> Reject:
        """What is said about the entry."""
        return Reject(source, ident, self.reason, self.detail)


def counts(rejects: Sequence[Reject]) -> dict[str, int]:
    """Number of rejects by reason, sorted."""
    return dict(sorted(Counter(reject.reason for reject in rejects).items()))


def write_rejects(path: Path, rejects: Sequence[Reject]) -> None:
    """All entries that were left out: source, id, reason, detail."""
    lines = [
        json.dumps({
            "source": _printable(r.source), "id": _printable(r.ident), "reason": r.reason, "detail": _printable(r.detail)
        })
        for r in rejects
    ]  # fmt: skip
    write_atomic(path, "".join(line + "\n" for line in lines))


def _printable(text: str) -> str:
    """Halves of surrogate pairs, which no terminal prints, spelt out."""
    return text.encode("utf-8", "backslashreplace").decode()


def read_rejects(folder: Path) -> list[Reject]:
    """What was left out of the store in a folder, under either name of the file; nothing where there is none."""
    files = [folder / name for name in (REJECTS, _OLDER) if (folder / name).is_file()]
    return [_reject(held) for held in read_objects(files[0])] if files else []


def _reject(held: dict[str, Any]) -> Reject:
    known = {**held, "detail": held.get("detail", held.get("message", ""))}
    return Reject(*(str(known.get(key, "")) for key in ("source", "id", "reason", "detail")))
