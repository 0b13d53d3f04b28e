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

from megabiomed.processes import flight_recorder
from megabiomed.processes.phases import since_boot

HUNG = 75
"""Exit code of a rank that gave up waiting (EX_TEMPFAIL of sysexits.h)."""
LOGS = "MEGABIOMED_LOGS"
# The first rank that ends makes the launcher end all others, reports unwritten. All of them stopped at the same collective,
# and their watches look once per second.
_SETTLE_S = 5.0
_RECORDER_S = 5.0
# A watch that looks again this much later than it wanted to did not run: an overloaded host delays it by less.
_AWAY_S = 4.0


def report_file(logs: Path, rank: int) -> Path:
    """Where a rank writes what it was doing."""
    return logs / f"hang_rank_{rank}.json"


class HangGuard:
    """Watches that this rank advances.

    Each rank waits for the others in every step, so that all of them stop when one does; each writes its own stack and ends.

    Time in which this process did not run (SIGSTOP, `scontrol suspend`, a paused virtual machine) does not count: all
    ranks may have been stopped together, and those that were not find out by their own guards.

    Args:
        place: this rank's part in the run, e.g. its stage and its coordinates.
        limit_s: longest time between two beats; 0 switches the guard off.
        start_limit_s: the same until `set_limit` is called (imports, compilation, reading weights), and for long phases.
    """

    def __init__(self, logs: Path, rank: int, place: str, limit_s: float, start_limit_s: float) -> None:
        self._logs = Path(os.environ.get(LOGS, logs))
        self._rank = rank
        self._place = place
        self._limit = self._long_limit = start_limit_s
        self._state: dict[str, Any] = {"what": "set-up", "step": None, "samples": None}
        self._waits = start_limit_s
        # The clock that goes on while a machine is suspended, or its pause would not be seen.
        self._deadline = since_boot() + start_limit_s
        self._look_s = min(1.0, limit_s / 4)
        self._suspended = 0.0
        self._done = threading.Event()
        # A thread sees a main thread that is stuck in a collective: NCCL and gloo wait without holding Python's lock.
        if limit_s:
            threading.Thread(target=self._watch, daemon=True, name="hang-guard").start()

    def set_limit(self, limit_s: float) -> None:
        """The start is over: from the next beat on, this is the longest time between two; nothing where the guard is off."""
        self._limit = limit_s

    def beat(self, what: str, step: int, samples: list[list[int]] | None = None, long: bool = False) -> None:
        """This rank advances: it begins `what` in this step, on these samples (source, epoch, window).

        Args:
            long: whether the phase reads or writes the whole model, and may take as long as the start.
        """
        self._state = {"what": what, "step": step, "samples": samples}
        self._waits = self._long_limit if long else self._limit
        self._deadline = since_boot() + self._waits

    def close(self) -> None:
        """Stop watching."""
        self._done.set()

    def _watch(self) -> None:
        seen = since_boot()
        while not self._done.wait(self._look_s):
            now = since_boot()
            self._forgive(now - seen - self._look_s, now)
            seen, late = now, now - self._deadline
            if late >= 0:
                self._give_up(late)

    def _forgive(self, away_s: float, now: float) -> None:
        """Move the deadline by the time in which this process did not run."""
        if away_s < _AWAY_S:
            return
        self._suspended += away_s
        # A beat since it woke up has set the deadline anew: no deadline is further away than one limit.
        self._deadline = min(self._deadline + away_s, now + self._waits)
        print(
            f"suspended: rank {self._rank} did not run for {away_s:.0f} s, which does not count as a hang",
            file=sys.stderr, flush=True,
        )  # fmt: skip

    def _give_up(self, late: float) -> None:
        report = {
            **self._state,
            "late_s": round(late, 1),
            "rank": self._rank,
            "place": self._place,
            "host": socket.gethostname(),
            "waited_s": self._waits,
            "suspended_s": round(self._suspended, 1),
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
    reader = threading.Thread(target=lambda: answers.append(flight_recorder.last_collectives()), daemon=True)
    reader.start()
    reader.join(_RECORDER_S)
    return answers[0] if answers else None


def _stacks() -> str:
    """Stack of every thread, the main one last."""
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()
