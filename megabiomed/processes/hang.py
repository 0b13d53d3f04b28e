"""The hang guard: a run that stops advancing says where every rank stands, and ends, so that it can be started again."""

from __future__ import annotations

import faulthandler
import json
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from megabiomed.processes import platform

HUNG = 75
"""Exit code of a rank that gave up waiting (EX_TEMPFAIL of sysexits.h)."""
LOGS = "MEGABIOMED_LOGS"
# The first rank that ends makes the launcher end all others, reports unwritten. All of them stopped at the same collective,
# and their watches look once per second.
_SETTLE_S = 5.0
_RECORDER_S = 5.0


def report_file(logs: Path, rank: int) -> Path:
    """Where a rank writes what it was doing."""
    return logs / f"hang_rank_{rank}.json"


class HangGuard:
    """Watches that this rank advances.

    Each rank waits for the others in every step, so that all of them stop when one does; each writes its own stack and ends.

    Args:
        place: this rank's part in the run, e.g. its stage and its coordinates.
        limit_s: longest time between two beats; 0 switches the guard off.
        start_limit_s: the same until the first step is done (imports, compilation, reading weights).
    """

    def __init__(self, logs: Path, rank: int, place: str, limit_s: float, start_limit_s: float) -> None:
        self._logs = Path(os.environ.get(LOGS, logs))
        self._rank = rank
        self._place = place
        self._limit = limit_s
        self._state: dict[str, Any] = {"what": "set-up", "step": None, "samples": None}
        self._deadline = time.monotonic() + start_limit_s
        self._done = threading.Event()
        # A thread sees a main thread that is stuck in a collective: NCCL and gloo wait without holding Python's lock.
        if limit_s:
            threading.Thread(target=self._watch, daemon=True, name="hang-guard").start()

    def beat(self, what: str, step: int, samples: list[list[int]] | None = None) -> None:
        """This rank advances: it begins `what` in this step, on these samples (source, epoch, window)."""
        self._state = {"what": what, "step": step, "samples": samples}
        self._deadline = time.monotonic() + self._limit

    def close(self) -> None:
        """Stop watching."""
        self._done.set()

    def _watch(self) -> None:
        while not self._done.wait(min(1.0, self._limit / 4)):
            late = time.monotonic() - self._deadline
            if late >= 0:
                self._give_up(late)

    def _give_up(self, late: float) -> None:
        report = {
            **self._state,
            "late_s": round(late, 1),
            "rank": self._rank,
            "place": self._place,
            "host": socket.gethostname(),
            "waited_s": self._limit,
            "stacks": _stacks(),
            "collectives": None,
        }
        self._logs.mkdir(parents=True, exist_ok=True)
        file = self._write(report)
        if (collectives := _collectives()) is not None:
            self._write(report | {"collectives": collectives})
        print(f"hang: rank {self._rank} did not advance: {self._state}; stacks in {file}", file=sys.stderr, flush=True)
        time.sleep(_SETTLE_S)
        os._exit(HUNG)  # an ordinary exit would wait for the thread that hangs

    def _write(self, report: dict[str, Any]) -> Path:
        file = report_file(self._logs, self._rank)
        file.with_suffix(".tmp").write_text(json.dumps(report, indent=1))
        return file.with_suffix(".tmp").replace(file)


@contextmanager
def watched(seconds: float, where: Callable[[], str]) -> Iterator[None]:
    """Print `where()` to standard error if the block takes longer; the guard ends a run that stays there.

    The watch knows what the guard does not: in which phase of a step this rank is, and with what.
    """
    timer = threading.Timer(seconds, lambda: print(f"watchdog: {where()}", file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _collectives() -> list[dict[str, Any]] | None:
    """The entries of torch's flight recorder; None when it does not answer, as may happen if the device's driver hangs."""
    answers: list[list[dict[str, Any]]] = []
    reader = threading.Thread(target=lambda: answers.append(platform.last_collectives()), daemon=True)
    reader.start()
    reader.join(_RECORDER_S)
    return answers[0] if answers else None


def _stacks() -> str:
    """Stack of every thread, the main one last."""
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()
