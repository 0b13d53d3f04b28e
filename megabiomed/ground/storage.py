"""What storage still takes, in bytes and in files, by its file system and by quotas; what a refusal means."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)
_TIMEOUT_S = 10.0
_MOST = 2**60
"""More than that is a file system's word for: not counted."""
_FIELDS = 8
"""Of a line of `quota` and `lfs quota`, behind the name of the file system: KiB used, quota, limit, grace; then files."""


@dataclass(frozen=True)
class Room:
    """What may still be written to a place.

    Attributes:
        size: bytes.
        files: files and folders; None where the file system sets no number.
        whose: `, by the quota of ...` where that is the smaller limit, else empty.
    """

    size: int
    files: int | None
    whose: str = ""

    def lacks(self, size: int, files: int, what: str) -> str | None:
        """What is free and what something takes, where that does not fit; None where it does."""
        if self.size < size:
            return f"{shown(self.size)} are free{self.whose}, {what} takes {shown(size)}"
        if self.files is not None and self.files < files:
            return f"{self.files:,} files (inodes) are free{self.whose}, {what} takes {files:,}"
        return None


def room(path: Path, quotas: bool = False) -> Room:
    """What the file system of a path, or of its nearest parent that exists, still takes.

    Project quotas of XFS and ext4 and quotas of CephFS are in a file system's own figures.

    Args:
        quotas: ask `quota` and `lfs quota` as well, where they are installed. Another process, so not for every save.
    """
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    held = os.statvfs(there)
    found = Room(held.f_bavail * held.f_frsize, held.f_favail if held.f_files > 0 and held.f_favail < _MOST else None)
    for limit in _quotas(there) if quotas else ():
        if limit.size < found.size or (limit.files is not None and limit.files < (found.files or _MOST)):
            files = [number for number in (limit.files, found.files) if number is not None]
            found = Room(min(limit.size, found.size), min(files, default=None), limit.whose)
    return found


def shown(size: int) -> str:
    """Bytes for a reader, in GiB or MiB."""
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"


def is_full(error: BaseException) -> bool:
    """Whether storage refused because it, or a quota, is used up."""
    return isinstance(error, OSError) and error.errno in FULL


def refusal(error: OSError, path: Path | None = None) -> str:
    """The words of a refusal; of a full file system also when only its inodes are used up, of a quota what is left.

    Args:
        path: where it happened, if the error does not name it.
    """
    said = error.strerror or str(error)
    place = error.filename if isinstance(error.filename, str) else path
    if error.errno not in FULL or place is None:
        return said
    try:
        left = room(Path(place), quotas=error.errno == errno.EDQUOT)
    except OSError:
        return said
    if left.files == 0 and (left.size or error.errno == errno.EDQUOT):
        return f"{said}: no inodes are left{left.whose}, though {shown(left.size)} are free"
    return f"{said}: {shown(left.size)} are free{left.whose}" if left.whose else said


def remedy(error: OSError) -> str:
    """What to do about a refusal of full storage."""
    if error.errno == errno.EDQUOT:
        return "your quota is used up: remove files, or ask for more"
    return "make room: remove files, or ask for more inodes" if "inodes" in refusal(error) else "make room"


def _quotas(path: Path) -> Iterator[Room]:
    """What the quotas of this user, and of the group of a path, leave there; nothing where no tool knows of any."""
    mount = next(place for place in (path.resolve(), *path.resolve().parents) if os.path.ismount(place))
    user, group = str(os.geteuid()), str(path.stat().st_gid)
    if shutil.which("lfs") and _kind(mount) == "lustre":
        yield from _limit(["lfs", "quota", "-q", "-u", user, str(mount)], f"user {user}")
        yield from _limit(["lfs", "quota", "-q", "-g", group, str(mount)], f"group {group}")
    elif shutil.which("quota"):
        common = ["quota", "--no-wrap", "--raw-grace", "--filesystem", str(mount)]
        yield from _limit([*common, "--user"], f"user {user}")
        yield from _limit([*common, "--group"], "this user's groups")


def _kind(mount: Path) -> str:
    with open("/proc/mounts") as file:
        kinds = {line.split()[1]: line.split()[2] for line in file}
    return kinds.get(str(mount), "")


def _limit(command: list[str], whose: str) -> Iterator[Room]:
    """Limits that a command prints. Its exit code says little: `quota` leaves with 1 where one is passed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return
    yield from limits(done.stdout.splitlines(), whose)


def limits(lines: Iterable[str], whose: str) -> Iterator[Room]:
    """What is left by the lines of `quota` or `lfs quota`; a limit of 0 is none, a name may stand on a line of its own."""
    for line in lines:
        words = [word.strip("*[]") for word in line.split()][-_FIELDS:]
        if len(words) < _FIELDS or not all(words[n].isdigit() for n in (0, 1, 2, 4, 5, 6)):
            continue
        used, soft, hard, _, files, soft_files, hard_files, _ = words
        kib, number = int(hard) or int(soft), int(hard_files) or int(soft_files)
        if kib or number:
            yield Room(
                max(0, kib - int(used)) * 1024 if kib else _MOST,
                max(0, number - int(files)) if number else None,
                f", by the quota of {whose}",
            )
