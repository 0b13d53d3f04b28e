"""SHA-256 of large files, remembered beside a run: a model of 13 GB is not read again at every start to be recognised."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from megabiomed.ground.errors import FileError
from megabiomed.ground.files import read_json, sha256_file, write_json
from megabiomed.ground.staged import local

NOTES = "file_hashes.json"


class FileHashes:
    """Hashes of files that did not change since they were noted: same place, inode, size, time of content and of inode.

    The time of the inode (ctime) changes with every write, also by a program that sets the time of the content back.

    Args:
        folder: of the run whose notes these are; None remembers nothing.
        write: whether new hashes are noted (by one process of a run).
    """

    def __init__(self, folder: Path | None, write: bool = False) -> None:
        self._notes = folder and folder / NOTES
        self._write = write and folder is not None and folder.is_dir()

    def sha256(self, path: Path) -> str:
        """Of one file, from the notes or its content."""
        key, before = str(path.resolve()), _state(path)
        notes = self._read()
        held = notes.get(key)
        if isinstance(held, dict) and held.get("state") == before and isinstance(held.get("sha256"), str):
            return str(held["sha256"])
        found = sha256_file(local(path))
        if self._write and self._notes is not None and _state(path) == before:
            with suppress(OSError):  # a run folder that is full or read-only: the file is read again next time
                write_json(self._notes, {**notes, key: {"state": before, "sha256": found}})
        return found

    def _read(self) -> dict[str, Any]:
        """The notes; nothing is lost with damaged ones."""
        try:
            found = read_json(self._notes) if self._notes is not None else {}
        except FileError:
            return {}
        return found if isinstance(found, dict) else {}


def _state(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]
