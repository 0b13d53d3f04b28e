"""Whether the storage of a run has room for its next checkpoint, known from the newest one; without torch."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

_MORE = 1.01


def lacking(run: Path) -> str | None:
    """What is free and what one checkpoint takes, where that does not fit; None where it does, or no checkpoint tells yet.

    Folders without a commit count as free: the run removes them before its first save. A quota shows only when it is met.
    """
    folders = sorted(run.glob("checkpoints/step_*"))
    committed = [folder for folder in folders if (folder / "COMMITTED").is_file()]
    if not committed:
        return None
    needed = int(_bytes(committed[-1:]) * _MORE)
    free = shutil.disk_usage(run).free + _bytes(folder for folder in folders if folder not in committed)
    return f"{_size(free)} are free, one checkpoint takes {_size(needed)}" if free < needed else None


def _bytes(folders: Iterable[Path]) -> int:
    total = 0
    for file in (file for folder in folders for file in folder.rglob("*")):
        try:
            total += file.stat().st_size
        except OSError:  # removed meanwhile
            continue
    return total


def _size(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"
