"""The last error in a rank's log, whatever wrote it: Python, megabiomed, CUDA, the C library, or SLURM."""

from __future__ import annotations

import re
from pathlib import Path

END = 1 << 16
"""Bytes from the end of a log that are looked at."""
_LINES = 80
_LONGEST = 300
_ERROR = re.compile(
    r"""
    (?:\[?rank\s?\d+\]?:\s*)?
    (?: (?:[\w]+\.)*\w*(?:Error|Exception|Interrupt|Fault)\b(?::|$)   # the end of a traceback
      | error:\ | fatal\ error | Fatal\ Python\ error | terminate\ called | what\(\):
      | slurmstepd[^:]*:\ error: | bash:.*(?:not\ found|No\ such\ file) | .*CUDA\ error:\ | .*oom.kill
      | Segmentation\ fault | Killed$ | Bus\ error | Aborted\b
    )""",
    re.VERBOSE | re.IGNORECASE,
)
# Said when somebody else ended the step, or beside an error and not about it.
_NOISE = re.compile(
    r"slurmstepd[^:]*: error: \*\*\* (STEP|JOB) |srun: |\[?(rank\d+\]:)?\[[WI]\d|.*Warning\b|\s*warnings\.warn"
    r"|Please report it with|  megabiomed |  command: megabiomed |error: this is a defect"
)
_CONSEQUENCES = (
    "connection to another rank was lost", "Connection closed by peer", "Connection reset by peer", "Broken pipe",
    "NCCL remote process exited", "ncclRemoteError", "Socket closed", "failed to recv", "Timed out waiting",
)  # fmt: skip


def end_of(file: Path, size: int = END) -> str:
    """The end of a text file; empty when it cannot be read."""
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - size))
            return stream.read().decode(errors="replace")
    except OSError:
        return ""


def last_error(text: str, by_itself: bool) -> str | None:
    """The line of a log that says why its process ended; None when none does.

    Args:
        by_itself: the process chose to leave, so its last line counts where no line looks like an error. One that a signal
            ended was in the midst of something else.
    """
    lines = [line.strip() for line in re.split(r"[\r\n]+", text)[-_LINES:] if line.strip() and not _NOISE.match(line)]
    found = next((line for line in reversed(lines) if _ERROR.match(line)), None)
    if found is None and by_itself and lines:
        found = lines[-1]
    return found[:_LONGEST] if found else None


def is_consequence(error: str | None) -> bool:
    """Whether an error only says that another rank is gone."""
    return error is not None and any(words in error for words in _CONSEQUENCES)
