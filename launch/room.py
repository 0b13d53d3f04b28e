"""Whether the storage of a run has room for its next checkpoints, without torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from megabiomed.checkpoint.marker import COMMITTED
from megabiomed.checkpoint.space import files_of
from megabiomed.config.yaml_text import read_yaml
from megabiomed.ground.errors import UserError
from megabiomed.ground.storage import Room, room
from megabiomed.launch import records

_MORE = 1.01


def lacking(run: Path) -> str | None:
    """What is free and what one checkpoint takes, where that does not fit; None where it does, or no checkpoint tells yet.

    Folders without a commit count as free: the run removes them before its first save.
    """
    folders = sorted(run.glob("checkpoints/step_*"))
    committed = [folder for folder in folders if (folder / COMMITTED).is_file()]
    if not committed:
        return None
    needed, files = _taken(committed[-1:])
    freed, freed_files = _taken(folder for folder in folders if folder not in committed)
    found = room(run, quotas=True)
    left = None if found.files is None else found.files + freed_files
    return Room(found.size + freed, left, found.whose).lacks(int(needed * _MORE), files, "one checkpoint")


def few_files(run: Path) -> str | None:
    """What is free and what the checkpoints of a run take, where its storage has too few inodes for them.

    By the ranks and `checkpoint.keep_last` that were submitted: one more is written before the oldest goes.
    """
    stored, ranks = run / records.SLURM / "config.yaml", records.read_job(run).get("ranks", 1)
    try:
        values = read_yaml(stored.read_text(), str(stored)) if stored.is_file() else None
        keep = values["checkpoint"]["keep_last"] if isinstance(values, dict) else None
    except (UserError, OSError, KeyError, TypeError):
        return None
    if not isinstance(keep, int):
        return None
    here = len(list(run.glob(f"checkpoints/step_*/{COMMITTED}")))
    more = max(1, keep + 1 - here)
    found = room(run, quotas=True)
    what = f"{more} checkpoints of {ranks} ranks (checkpoint.keep_last = {keep})"
    return Room(found.size, found.files, found.whose).lacks(0, more * files_of(ranks), what)


def _taken(folders: Iterable[Path]) -> tuple[int, int]:
    """Bytes and files of folders."""
    size, count = 0, 0
    for file in (file for folder in folders for file in (folder, *folder.rglob("*"))):
        try:
            size += file.stat().st_size if file.is_file() else 0
            count += 1
        except OSError:  # removed meanwhile
            continue
    return size, count
