"""Whether the storage has room for one more checkpoint, asked before anything is written."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterable
from pathlib import Path

from megabiomed.checkpoint.logical import Fragment

_MORE = 1.01
_BESIDE = 256 * 1024
"""Headers, manifest, configuration, tokenizer."""


def stored_bytes(fragments: Iterable[Fragment]) -> int:
    """Bytes of what one rank writes."""
    return sum(view.nbytes for fragment in fragments if fragment.owner for view in fragment.views.values())


def check_space(folder: Path, tensors: int) -> None:
    """Refuse to begin a checkpoint that the storage has no room for. A quota shows only when it is met.

    Args:
        folder: an existing one, or one that will be made.
        tensors: bytes of the tensors of all ranks.

    Raises:
        OSError: ENOSPC, with what is free and what is needed.
    """
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free, needed = shutil.disk_usage(there).free, int(tensors * _MORE) + _BESIDE
    if free < needed:
        shown = f"{free / 2**20:,.1f} MiB are free, one more checkpoint takes {needed / 2**20:,.1f} MiB"
        raise OSError(errno.ENOSPC, f"No space left on device: {shown}", str(folder))
