"""Whether the storage has room for one more checkpoint, asked before anything is written."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from megabiomed.ground.storage import room

if TYPE_CHECKING:  # the launcher asks for the number of files, without torch
    from megabiomed.checkpoint.logical import Fragment

_MORE = 1.01
_BESIDE = 256 * 1024
"""Headers, manifest, configuration, tokenizer."""
_FILES_OF_RANK = 2
_FILES_BESIDE = 12
"""Folders, manifest, marker, configuration, tokenizer with its companions."""


def stored_bytes(fragments: Iterable[Fragment]) -> int:
    """Bytes of what one rank writes."""
    return sum(view.nbytes for fragment in fragments if fragment.owner for view in fragment.views.values())


def files_of(ranks: int) -> int:
    """Files and folders of one checkpoint, at most."""
    return ranks * _FILES_OF_RANK + _FILES_BESIDE


def check_space(folder: Path, tensors: int, ranks: int, quotas: bool = False) -> None:
    """Refuse to begin a checkpoint that the storage has no room for.

    Args:
        folder: an existing one, or one that will be made.
        tensors: bytes of the tensors of all ranks.
        quotas: ask for those of the user too (see `room`); otherwise one shows when it is met.

    Raises:
        OSError: ENOSPC or EDQUOT, with what is free and what is needed.
    """
    found = room(folder, quotas)
    if short := found.lacks(int(tensors * _MORE) + _BESIDE, files_of(ranks), "one more checkpoint"):
        code = errno.EDQUOT if found.whose else errno.ENOSPC
        raise OSError(code, f"{os.strerror(code)}: {short}", str(folder))
