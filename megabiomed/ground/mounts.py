"""What this process sees mounted, by /proc/self/mountinfo (proc(5))."""

from __future__ import annotations

import os
import re
from pathlib import Path

NODE_ROOT = "MEGABIOMED_NODE_ROOT"
"""Environment variable: device and inode of the node's root, as a process saw them that is not in the container."""
_OF_IMAGES = ("overlay", "fuse-overlayfs", "fuse.fuse-overlayfs", "squashfs", "fuse.squashfuse", "tmpfs", "rootfs")
"""Kinds of file systems that runtimes use as the root of a container; nodes without disks have them, too."""


def is_of_image(path: Path, table: str | None = None, node_root: str | None = None) -> bool:
    """Whether a place in a container belongs to the container itself: what is written there is not on the node's storage.

    The root of the container holds it, and that is not the node's. Where nobody noted the node's root (pyxis), the container's
    root is known by its kind, or as a folder of some file system.

    Args:
        table: text of the mountinfo; None reads that of this process.
        node_root: what NODE_ROOT says; None reads it.
    """
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines() if table is None else table.splitlines()
    except OSError:
        return False
    wanted = os.path.realpath(path) if table is None else str(path)
    above = [line for line in lines if _holds(_plain(line.split()[4]), wanted)]
    if not above:
        return False
    # Of several at one place the last one is on top.
    nearest = max(reversed(above), key=lambda line: len(_plain(line.split()[4])))
    mount, _, kind = nearest.partition(" - ")
    root, point = mount.split()[3:5]
    told = os.environ.get(NODE_ROOT) if node_root is None else node_root
    if told:
        # A container may show the node's own root (bubblewrap's --dev-bind / /), and that may be a layer itself.
        return point == "/" and told != _root()
    return point == "/" and (root != "/" or kind.split()[0] in _OF_IMAGES)


def _root() -> str:
    here = os.stat("/")
    return f"{here.st_dev}:{here.st_ino}"


def _holds(point: str, path: str) -> bool:
    return path == point or path.startswith(point.rstrip("/") + "/")


def _plain(text: str) -> str:
    """Spaces and the like stand there as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
