"""A command that goes on while a test looks at it."""

from __future__ import annotations

import os
import time
from pathlib import Path

from support.zygote import start_python


class Started:
    """`megabiomed ...`, started and not waited for; what it says is in two files of a folder."""

    def __init__(self, words: list[str], folder: Path) -> None:
        self._out, self._err = folder / "said.out", folder / "said.err"
        for file in (self._out, self._err):
            file.touch()
        command = ["-m", "megabiomed.cli", *words]
        self._process = start_python(command, {**os.environ, "OMP_NUM_THREADS": "1"}, self._out, self._err)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def runs(self) -> bool:
        """Whether it has not left yet."""
        return self._process.poll() is None

    def wait_for(self, beginning: str) -> None:
        """Wait for a line of its output."""
        while not any(line.startswith(beginning) for line in self._out.read_text().splitlines()):
            assert self.runs(), f"no line began with {beginning!r}\n{self._err.read_text()}"
            time.sleep(0.02)

    def finish(self, timeout_s: float = 120.0) -> tuple[int, str, str]:
        """Its exit code, output and errors, once it has left.

        Raises:
            subprocess.TimeoutExpired: it was ended after `timeout_s` seconds.
        """
        try:
            code = self._process.wait(timeout_s)
        finally:
            self._process.kill()
        return code, self._out.read_text(), self._err.read_text()
