"""How far a piece of work makes this process's own memory rise."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType

_STATUS = Path("/proc/self/status")


def anonymous_bytes() -> int:
    """Memory that this process allocated; file pages, which the kernel can drop at any time, do not count. 0 where unknown."""
    if not _STATUS.is_file():
        return 0
    for line in _STATUS.read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


class PeakMemory:
    """Context manager that samples allocated memory; `rise` is the peak above where it stood at the beginning, in bytes."""

    def __init__(self, interval_s: float = 0.005) -> None:
        self.rise, self._interval = 0, interval_s
        self._done = threading.Event()

    def __enter__(self) -> PeakMemory:
        self._before = anonymous_bytes()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        self._sample()

    def _watch(self) -> None:
        while not self._done.wait(self._interval):
            self._sample()

    def _sample(self) -> None:
        self.rise = max(self.rise, anonymous_bytes() - self._before)
