"""Room for one more copy: what a node's folder holds, what other jobs are about to write, and what may be removed."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from megabiomed.ground.errors import FileError
from megabiomed.ground.files import discard_tree, read_json
from megabiomed.ground.storage import room
from megabiomed.launch.stage_in.figures import size

COPY = ".copy.json"
"""In every copy: what was copied; its time says when the copy was last wanted."""
LOCK = ".lock"
YOUNG_S = 300.0
"""A copy that was wanted so many seconds ago stays: the ranks that will hold its lock are still starting."""
_FREE_SHARE = 0.01
"""Of the disk, which copies leave free."""
_POLL_S = 0.1


class _Idle(NamedTuple):
    """A copy that nobody reads."""

    wanted: float
    place: Path
    bytes: int


@dataclass
class _Survey:
    """What a folder holds: bytes of all copies and of those under way, bytes that these will still write, and idle copies."""

    used: int = 0
    pending: int = 0
    idle: list[_Idle] = field(default_factory=list)


def try_lock(descriptor: int, kind: int) -> bool:
    """Whether a lock (`fcntl.LOCK_SH` or `LOCK_EX`) is to be had now."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def copying_of(folder: Path, ident: str) -> Path:
    """Where a copy is made."""
    return folder / f".{ident}.copying"


@contextmanager
def deciding(folder: Path, until: float) -> Iterator[None]:
    """Nobody else decides about room meanwhile; a TimeoutError when somebody does for too long."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        while not try_lock(descriptor, fcntl.LOCK_EX):
            if time.monotonic() > until:
                raise TimeoutError(f"another job looked for room in {folder} for too long")
            time.sleep(_POLL_S)
        yield
    finally:
        os.close(descriptor)


def make_room(folder: Path, ident: str, needed: int, most: int | None) -> None:
    """Remove copies that nobody reads, the least recently used first, until one more fits.

    Args:
        ident: of the new copy, whose lock the caller holds; `deciding` too.
        needed, most: bytes of the new copy, and of all; None: what is free.

    Raises:
        FileError: all that may be removed is not enough; then nothing is.
    """
    with ExitStack() as locks:
        found = _survey(folder, ident, locks)
        left = room(folder, quotas=True)
        free = left.size - found.pending - int(_FREE_SHARE * shutil.disk_usage(folder).total)
        over = max(needed - free, 0 if most is None else found.used + needed - most)
        victims = []
        for idle in sorted(found.idle):
            if over > 0:
                victims.append(idle.place)
                over -= idle.bytes
        if over > 0:
            limit = f", max_size {size(most)}" if most is not None else ""
            raise FileError(
                f"no room in {folder}",
                got=f"{size(max(0, free))} free{left.whose}, {size(found.used)} in copies{limit}", expected=size(needed),
            )  # fmt: skip
        for place in victims:
            gone = copying_of(folder, place.name)
            place.rename(gone)  # a name that nobody takes for a copy, should this process die
            discard_tree(gone)


def _survey(folder: Path, ident: str, locks: ExitStack) -> _Survey:
    """Look at every copy; the locks of idle ones are held until `locks` is closed. What a dead process left is removed."""
    found = _Survey()
    for lock in folder.glob("*.lock"):
        if lock.name in (LOCK, f"{ident}.lock"):
            continue
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        locks.callback(os.close, descriptor)
        place, temporary = lock.with_suffix(""), copying_of(folder, lock.stem)
        if not try_lock(descriptor, fcntl.LOCK_EX):
            if place.is_dir():
                found.used += _bytes(place)
            else:
                with suppress(ValueError):
                    reserved = int(os.pread(descriptor, 32, 0))
                    found.used += reserved
                    found.pending += max(0, reserved - _bytes(temporary))
            continue
        if temporary.is_dir():
            discard_tree(temporary)
        if place.is_dir():
            idle = _Idle(_wanted(place), place, _bytes(place))
            found.used += idle.bytes
            if time.time() - idle.wanted > YOUNG_S:
                found.idle.append(idle)
    return found


def _wanted(place: Path) -> float:
    try:
        return (place / COPY).stat().st_mtime
    except OSError:  # no whole copy
        return 0.0


def _bytes(place: Path) -> int:
    """What a copy takes: by its own words if it is whole, else by its files."""
    with suppress(FileError, KeyError, TypeError, ValueError):
        return int(read_json(place / COPY, dict)["bytes"])
    total = 0
    for file in place.glob("*"):
        with suppress(OSError):
            total += file.stat().st_blocks * 512
    return total
