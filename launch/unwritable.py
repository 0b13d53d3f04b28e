"""A run folder that cannot be written: what the batch script does then, and how it goes on without its records."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from megabiomed.ground.storage import is_full, refusal
from megabiomed.launch.decision import Decision
from megabiomed.launch.room import lacking

_REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
"""What storage answers on every node alike. Other errors may be this node's alone, so the job tries another one."""


def after_refusal(run: Path, error: OSError) -> Decision:
    """What follows when the records of a run cannot be written."""
    if error.errno not in _REFUSED:
        return Decision("leave", f"{run}: {error.strerror or error}")
    if is_full(error):
        why = "; ".join(filter(None, (refusal(error, run), lacking(run))))
        return Decision("fail", f"{run} cannot be written ({why}): {make_room(run)}")
    remedy = f"make it writable, then megabiomed resubmit {run}"
    return Decision("fail", f"{run} cannot be written ({error.strerror}): {remedy}")


def make_room(run: Path) -> str:
    """What to do about a full disk or a quota that is used up."""
    return f"make room, then megabiomed resubmit {run}"


@contextmanager
def unwritable() -> Iterator[None]:
    """Go on although the disk is full or read-only and nothing can be noted: the next start will refuse to begin on it."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        print(f"not noted: {error}", file=sys.stderr)
