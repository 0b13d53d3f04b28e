"""Rank 0's output on the operator's terminal and in its log, with a progress bar if it is a terminal."""

from __future__ import annotations

import re
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

_STEP = re.compile(rb"step: (\d+)/(\d+) ")


class Echo(threading.Thread):
    """Copies a worker's output, line by line, to its log and to this process's standard output.

    Args:
        stream: the worker's output, binary.
        log: file to append to.
    """

    def __init__(self, stream: IO[bytes], log: Path) -> None:
        super().__init__(daemon=True, name="echo")
        self._stream, self._log = stream, log
        self.start()

    def run(self) -> None:
        """Copy until the worker closes its output."""
        bar = _Bar() if sys.stdout.isatty() else None
        with self._log.open("ab", buffering=0) as log:
            for line in self._stream:
                with suppress(
                    OSError
                ):  # a full disk, a quota: the worker must not block, and the terminal has the line
                    log.write(line)
                try:
                    _show(line, bar)
                except OSError:  # the reader of a pipe left; the worker must not block, and its log goes on
                    bar = None
        if bar:
            bar.close()


def _show(line: bytes, bar: _Bar | None) -> None:
    if bar:
        bar.show(line)
        return
    sys.stdout.write(line.decode(errors="replace"))
    sys.stdout.flush()


class _Bar:
    """A bar under the log lines, moved by the steps that they report."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = TextColumn("steps"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self._progress = Progress(*columns, transient=True)
        self._task: Any = None

    def show(self, line: bytes) -> None:
        step = _STEP.match(line)
        if step and self._task is None:
            self._progress.start()
            self._task = self._progress.add_task("steps")
        if step:
            self._progress.update(self._task, completed=int(step[1]), total=int(step[2]))
        text = line.decode(errors="replace").rstrip("\n")
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self._progress.stop()
