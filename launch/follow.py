"""Logs of ranks: the newest, its end, and what comes after."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from megabiomed.ground.errors import LaunchError
from megabiomed.launch.causes import first_failure

_POLL_S = 0.5


def newest_log(run: Path, rank: int) -> Path | None:
    """The log of a rank in the incarnation that wrote last, of the run or of one of its stages."""
    files = [file for where in ("logs", "*/logs") for file in run.glob(f"{where}/*/rank_{rank}.log")]
    return max(files, key=lambda path: path.stat().st_mtime, default=None)


def failed_log(run: Path) -> tuple[str, Path | None]:
    """What failed first in the newest start in which something did, and the log of that task.

    Raises:
        LaunchError: nothing failed.
    """
    folders = [path for where in ("logs", "*/logs") for path in run.glob(f"{where}/*/") if path.is_dir()]
    for folder in sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True):
        if (failure := first_failure(folder.parent.parent, folder.name)) is not None:
            when = f"{failure.time}, " if failure.time else ""
            where = f"\n--- {failure.log}" if failure.log is not None else ""
            return f"{when}start {folder.name}: {failure}{where}", failure.log
    raise LaunchError(f"no task of {run} failed", got=f"{len(folders)} starts", do=f"megabiomed logs {run} --job")


def tail(file: Path, lines: int, newest: Callable[[], Path | None] | None) -> None:
    """Print the last lines of a file; with `newest`, continue for ever with what is added, there or in a newer file."""
    # Polling, as inotify sees nothing of what other nodes write to a shared file system.
    text = file.read_bytes()
    sys.stdout.write(b"\n".join(text.splitlines()[-lines:]).decode(errors="replace") + "\n")
    at = len(text)
    while newest is not None:
        sys.stdout.flush()
        time.sleep(_POLL_S)
        with file.open("rb") as stream:
            stream.seek(at)
            added = stream.read()
        at += len(added)
        sys.stdout.write(added.decode(errors="replace"))
        later = newest()
        # Only when nothing was added: the last words of an incarnation are read before the next one's log is opened.
        if not added and later is not None and later != file:
            file, at = later, 0
            sys.stdout.write(f"--- {file}\n")
