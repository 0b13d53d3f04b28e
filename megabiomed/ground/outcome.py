"""How a command ends when something goes wrong: one message for what a user can mend, a report for what is a defect."""

from __future__ import annotations

import errno
import os
import platform
import shlex
import sys
import traceback
from collections.abc import Sequence

from megabiomed.ground import storage
from megabiomed.ground.errors import MegabiomedError
from megabiomed.ground.secrets import masked

_ADVICE = {
    errno.ENOENT: "check the path",
    errno.EACCES: "check the permissions of this path",
    errno.EPERM: "check the permissions of this path",
    errno.EISDIR: "give a file, not a folder",
    errno.ENOTDIR: "a part of this path is a file; check it",
    errno.EEXIST: "choose another name or remove it",
    errno.EROFS: "this file system is read-only; choose another folder",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "this link leads to itself; correct it",
    errno.EMFILE: "raise the limit of open files (`ulimit -n`)",
}


def explain(error: BaseException, words: Sequence[str]) -> tuple[int, str]:
    """(exit code, text for standard error) of what ended a command.

    Args:
        words: the command line, for the report of a defect.
    """
    if isinstance(error, MegabiomedError):
        return error.exit_code, f"error: {error}"
    if isinstance(error, BrokenPipeError):
        return 1, ""  # the reader of a pipe left: `megabiomed status | head`
    if isinstance(error, UnicodeDecodeError):
        return 2, f"error: a file that is read as text is not UTF-8: got {error}, expected UTF-8; save it as UTF-8"
    place = f" {error.filename!r}" if isinstance(error, OSError) and error.filename is not None else ""
    if isinstance(error, OSError) and storage.is_full(error):
        said = f"got {storage.refusal(error)}; {storage.remedy(error)}, and run the command again"
        return 2, f"error: cannot use the file or folder{place}: {said}"
    if isinstance(error, OSError) and error.errno in _ADVICE:
        return 2, f"error: cannot use the file or folder{place}: got {error.strerror}; {_ADVICE[error.errno]}"
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):  # torch says it by a RuntimeError
        return 1, "error: this machine has too little memory for the command; use a smaller input or a larger machine"
    if type(error).__name__ == "OutOfMemoryError":  # torch's own, which is not imported here
        said = str(error).partition(". ")[0]
        return 1, f"error: the device has too little memory: got {said}; use smaller batches or windows"
    return 1, _defect(error, words)


def _defect(error: BaseException, words: Sequence[str]) -> str:
    """Everything that a report needs; arguments as they were given, without the environment."""
    from megabiomed import __version__

    trace = "".join(traceback.format_exception(error)).rstrip()
    return "\n".join(
        [
            trace,
            "",
            f"error: this is a defect of megabiomed, not a mistake of yours: {type(error).__name__}: {error}",
            "Please report it with the lines above and these:",
            f"  megabiomed {__version__}, Python {platform.python_version()}, {platform.platform()}",
            f"  command: megabiomed {shlex.join(words)}",
        ]
    )


def end(error: BaseException, words: Sequence[str]) -> int:
    """Print what `explain` says; returns the exit code."""
    code, text = explain(error, words)
    text = masked(text)
    if text:
        print(text, file=sys.stderr, flush=True)
    elif isinstance(error, BrokenPipeError):
        # Python would complain once more when it flushes standard output at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code
