"""Which paths lead to the same place: `..`, symbolic links and bind mounts give one folder many names."""

from __future__ import annotations

from pathlib import Path


def place(path: Path) -> tuple[int, int, tuple[str, ...]]:
    """Device and inode of the nearest parent that exists, and the names below it; equal for all paths to one place.

    A path may name something that does not exist (yet, or any more), and a bind mount has the inode of what is mounted.
    """
    real = path.resolve()
    for there in (real, *real.parents):
        try:
            found = there.stat()
        except OSError:
            continue
        return found.st_dev, found.st_ino, real.relative_to(there).parts
    return 0, 0, real.parts


def same_place(one: Path, other: Path) -> bool:
    """Whether two paths lead to the same file or folder."""
    return one.absolute() == other.absolute() or place(one) == place(other)


def is_below(path: Path, folder: Path) -> bool:
    """Whether a path is a folder, or leads to something in it."""
    real = path.resolve()
    if real.is_relative_to(folder.resolve()):
        return True
    wanted = place(folder)
    return any(place(parent) == wanted for parent in (real, *real.parents))
