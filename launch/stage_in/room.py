"""Room for one more copy: what a node's folder holds, what other jobs are about to write, and what may be removed."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from megabiomed.ground.errors import FileError
from megabiomed.ground.files import discard_tree, read_json
from megabiomed.ground.staged import leads_to
from megabiomed.ground.storage import Room, room
from megabiomed.launch.stage_in.figures import size

COPY = ".copy.json"
"""In every copy: what was copied; its time says when the copy was last wanted."""
LOCK = ".lock"
YOUNG_S = 300.0
"""A copy that was wanted so many seconds ago stays: the ranks that will hold its lock are still starting."""
_FREE_SHARE = 0.01
"""Of the disk, in bytes and in files, which copies leave free."""
_POLL_S = 0.1
_WIDTH = 32
"""Of the bytes in a lock, with blanks behind them: an earlier release reads so many characters, and no files."""


class Need(NamedTuple):
    """What a copy takes: bytes, and files and folders (inodes)."""

    size: int
    files: int

    def text(self) -> bytes:
        """For its lock, while it is made."""
        return f"{self.size:<{_WIDTH}}{self.files}".encode()


class _Idle(NamedTuple):
    """A copy that nobody reads."""

    wanted: float
    place: Path
    need: Need


@dataclass
class _Survey:
    """What a folder holds: bytes of all copies and of those under way, what these will still write, and idle copies."""

    used: int = 0
    pending: int = 0
    pending_files: int = 0
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


def lock_of(folder: Path, ident: str) -> Path:
    """The file of its lock. It goes with the copy, so whoever has locked it looks whether it still has its name."""
    return folder / f"{ident}.lock"


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


def make_room(folder: Path, ident: str, needed: Need, most: int | None) -> None:
    """Remove copies that nobody reads, the least recently used first, until one more fits.

    Args:
        ident: of the new copy, whose lock the caller holds; `deciding` too.
        most: bytes of all copies together; None: what is free.

    Raises:
        FileError: all that may be removed is not enough; then nothing is.
    """
    with ExitStack() as locks:
        found = _survey(folder, ident, locks)
        left = _left(folder, found)
        over = max(needed.size - left.size, 0 if most is None else found.used + needed.size - most)
        short = 0 if left.files is None else needed.files - left.files
        victims = []
        for idle in sorted(found.idle):
            if over > 0 or short > 0:
                victims.append(idle.place)
                over -= idle.need.size
                short -= idle.need.files
        held = f"{size(found.used)} in copies"
        if over > 0:
            limit = f", max_size {size(most)}" if most is not None else ""
            got = f"{size(max(0, left.size))} free{left.whose}, {held}{limit}"
            raise FileError(f"no room in {folder}", got=got, expected=size(needed.size))
        if short > 0:
            got = f"{max(0, left.files or 0):,} files (inodes) free{left.whose}, {held}"
            raise FileError(f"no room in {folder}", got=got, expected=f"{needed.files:,} files")
        for place in victims:
            _remove(folder, place)


def _left(folder: Path, found: _Survey) -> Room:
    """What one more copy may take: a share of the disk, but not of a quota, stays free, and others will write some."""
    left = room(folder, quotas=True)
    disk = os.statvfs(folder)
    own = room(folder)
    size_left = min(left.size, own.size - int(_FREE_SHARE * disk.f_blocks * disk.f_frsize))
    files = left.files
    if files is not None and own.files is not None:
        files = min(files, own.files - int(_FREE_SHARE * disk.f_files))
    return Room(size_left - found.pending, None if files is None else files - found.pending_files, left.whose)


def _remove(folder: Path, place: Path) -> None:
    """Remove a copy, and then its lock, which the caller holds."""
    gone = copying_of(folder, place.name)
    place.rename(gone)  # a name that nobody takes for a copy, should this process die
    discard_tree(gone)
    if not gone.exists():
        lock_of(folder, place.name).unlink(missing_ok=True)


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
                found.used += _taken(place).size
            else:
                _count_reserved(found, descriptor, temporary)
            continue
        if temporary.is_dir():
            discard_tree(temporary)
        if place.is_dir():
            idle = _Idle(_wanted(place), place, _taken(place))
            found.used += idle.need.size
            if time.time() - idle.wanted > YOUNG_S:
                found.idle.append(idle)
        elif not temporary.exists() and leads_to(lock, descriptor):
            lock.unlink()  # of a copy that was never made, or that somebody removed by hand
    return found


def _count_reserved(found: _Survey, lock: int, temporary: Path) -> None:
    """Add a copy that another process makes, by what it wrote into its lock."""
    with suppress(ValueError):
        text = os.pread(lock, 2 * _WIDTH, 0)
        reserved, files = int(text[:_WIDTH]), int(text[_WIDTH:] or 0)
        written = _taken(temporary)
        found.used += reserved
        found.pending += max(0, reserved - written.size)
        found.pending_files += max(0, files - written.files)


def _wanted(place: Path) -> float:
    try:
        return (place / COPY).stat().st_mtime
    except OSError:  # no whole copy
        return 0.0


def _taken(place: Path) -> Need:
    """What a copy takes: bytes by its own words if it is whole, else by its files; nothing where there is none."""
    files = list(place.glob("*"))
    total = 0
    for file in files:
        with suppress(OSError):
            total += file.stat().st_blocks * 512
    with suppress(FileError, KeyError, TypeError, ValueError):
        total = int(read_json(place / COPY, dict)["bytes"])
    return Need(total, len(files) + place.is_dir())
