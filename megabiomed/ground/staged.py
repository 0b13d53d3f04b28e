"""Copies on a node's own storage: where a process reads a file that a cluster's nodes share.

The launcher copies files before the ranks start and leaves a note for each node in the folder that MEGABIOMED_STAGED names
(launch/stage_in). Configurations and checkpoints keep the shared path; only who opens a file asks here. A process that cannot
use a copy says why beside the note of its node.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from megabiomed.ground.errors import FileError
from megabiomed.ground.files import read_json, write_json
from megabiomed.ground.node import node_name

STAGED = "MEGABIOMED_STAGED"
"""Environment variable: folder with a note for each node."""
ITSELF = "."
"""Name, in the note, of a file that was copied alone."""
_LOG = logging.getLogger(__name__)
_TRIES = 10
_PAUSE_S = 0.1
_HELD: list[int] = []
"""Descriptors of the locks on copies that this process reads: they end with it, and nobody removes the copies before."""


def note_of(folder: Path, node: str) -> Path:
    """The file that says what is on a node."""
    return folder / f"{node}.json"


def unread_of(note: Path) -> Path:
    """Beside a node's note: the first copy that a process there could not use, `key` and `why`."""
    return note.with_suffix(".unread")


def leads_to(path: Path | str, descriptor: int) -> bool:
    """Whether a path still names an open file. A lock that was removed before it was had keeps nobody out."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def local(path: Path) -> Path:
    """Where to read a file or a folder: this node's copy if there is a whole one of the shared state, else `path` itself."""
    noted = os.environ.get(STAGED)
    if not noted:
        return path
    wanted = os.path.abspath(path)
    for source, copy in _copies(noted, node_name()).items():
        if wanted == source:
            found = Path(copy["local"])
        elif os.path.dirname(wanted) == source and os.path.basename(wanted) in copy["files"]:
            found = Path(copy["local"]) / os.path.basename(wanted)
        else:
            continue
        return found if _usable(noted, node_name(), source) else path
    return path


@lru_cache(maxsize=4)
def _copies(noted: str, node: str) -> dict[str, dict[str, Any]]:
    """Shared path -> its copy: `local`, `lock` and `files`. Empty where the node left no note, or a damaged one."""
    try:
        note = read_json(note_of(Path(noted), node), dict)
        return {str(copy["source"]): copy for copy in note["copies"] if copy["local"] is not None}
    except (FileError, KeyError, TypeError):
        return {}


@lru_cache(maxsize=1024)
def _usable(noted: str, node: str, source: str) -> bool:
    """Whether a copy is there and nobody removes it any more; decided once for a process, so that it never mixes the two."""
    copy = _copies(noted, node)[source]
    why = _unusable(source, copy)
    if why is not None:
        _LOG.warning("%s is read where it is, without its copy %s: %s", source, copy["local"], why)
        _tell(unread_of(note_of(Path(noted), node)), {"key": copy.get("key", source), "why": why})
    return why is None


def _tell(file: Path, found: dict[str, Any]) -> None:
    """For whoever asks how the run goes: one process of a node is enough, and none fails because of it."""
    with suppress(OSError):
        if not file.exists():
            write_json(file, found)


def _unusable(source: str, copy: dict[str, Any]) -> str | None:
    try:
        if not os.path.lexists(copy["local"]):
            return "its ranks do not see it: it was removed, or each container has such a folder for itself"
        if not _hold(str(copy["lock"])):
            return "it is being removed"
        for name, (size, shared_ns, local_ns) in copy["files"].items():
            found = os.stat(_at(copy["local"], name))
            if (found.st_size, found.st_mtime_ns) != (size, local_ns):
                return f"{name} was changed"
            if _changed(_at(source, name), size, shared_ns):
                return f"{name} has been replaced on the shared storage since"
    except (OSError, KeyError, TypeError, ValueError) as error:
        return f"{error}"
    return None


def _at(place: str, name: str) -> str:
    return place if name == ITSELF else os.path.join(place, name)


def _changed(path: str, size: int, time_ns: int) -> bool:
    try:
        now = os.stat(path)
    except OSError:  # the shared storage is away: that is what copies are good for
        return False
    return (now.st_size, now.st_mtime_ns) != (size, time_ns)


def _hold(lock: str) -> bool:
    for _ in range(_TRIES):  # somebody who looks for room tries the lock for a moment
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if leads_to(lock, descriptor):
                _HELD.append(descriptor)
                return True
        os.close(descriptor)
        time.sleep(_PAUSE_S)
    return False
