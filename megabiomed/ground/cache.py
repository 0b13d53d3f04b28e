"""A private folder for what this user's processes may find out again, and a lock that they share."""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

POLL_S = 0.1


def cache_folder() -> Path | None:
    """`megabiomed` in XDG_CACHE_HOME, else in ~/.cache, else in the folder for temporary files; made if it is absent.

    Returns:
        A folder that belongs to this user and that no other may write, or None when there is none to be had.
    """
    candidates = []
    given = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(given):  # a relative one is to be ignored (XDG base directory specification)
        candidates.append(Path(given) / "megabiomed")
    with suppress(RuntimeError):  # nobody's home
        candidates.append(Path("~/.cache/megabiomed").expanduser())
    candidates.append(Path(tempfile.gettempdir()) / f"megabiomed-{os.geteuid()}")
    return next((folder for folder in candidates if _private(folder)), None)


def _private(folder: Path) -> bool:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()  # a link that somebody put there is not followed
    except OSError:
        return False
    own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022
    return own and os.access(folder, os.W_OK | os.X_OK)


@contextmanager
def locked(path: Path, wait_s: float) -> Iterator[bool]:
    """Hold the lock of a file, which is made if it is absent; the system frees it when the process ends, however it does.

    Yields:
        True when the lock is held, or when this file system has none (or no room); False when another held it for `wait_s`.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:
        yield True
        return
    try:
        yield _acquired(descriptor, time.monotonic() + wait_s)
    finally:
        os.close(descriptor)


def _acquired(descriptor: int, until: float) -> bool:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(POLL_S)
        except OSError:  # some network file systems: everybody then does the work itself
            return True
        else:
            return True
