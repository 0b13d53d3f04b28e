"""`python -m megabiomed.launch.notify.watch RUN INCARNATION`: tells receivers what happens to a run, beside its batch script.

A process of its own: whatever a receiver does, the job neither waits for it nor fails. At the end of a start the script sends
USR2 and waits some seconds; what is not delivered by then is delivered by the next start, or by `megabiomed notify RUN`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

from megabiomed.checkpoint.fence import holder
from megabiomed.ground.errors import MegabiomedError
from megabiomed.ground.secrets import guard_process
from megabiomed.launch import records
from megabiomed.launch.notify.delivery import deliver
from megabiomed.launch.notify.eta import SLIPS, note_slip

EVERY_S = 10.0
LAST_S = 10.0
"""Seconds for everything that is left at the end of a start."""
_ETA_EVERY_S = 60.0
_RECORDS = (records.EVENTS, f"{records.SLURM}/{records.INCARNATIONS}", f"{records.SLURM}/{SLIPS}")
_RETRY_S = 30.0
"""Pause in which records that did not grow are not read again: those of a long run are large."""


class Watch:
    """Looks at the records of a run again and again.

    Args:
        incarnation: the start beside which this process runs; once a later one has the run, nothing more is said here.
    """

    def __init__(self, run: Path, incarnation: str) -> None:
        self.run, self.owner = run, incarnation.rpartition(".")[0]
        self._looked = self._delivered = 0.0
        self._sizes: list[int] = []
        self._troubles: set[str] = set()

    def look(self, last: bool = False) -> None:
        """Deliver what is new, and try again what is due."""
        try:
            if holder(self.run).rpartition("-")[0] != self.owner:
                return  # not begun yet, or taken over
            now = time.time()
            if now - self._looked >= _ETA_EVERY_S and not last:
                self._looked = now
                note_slip(self.run, now)
            sizes = [file.stat().st_size for name in _RECORDS if (file := self.run / name).is_file()]
            if sizes == self._sizes and now - self._delivered < _RETRY_S and not last:
                return
            self._sizes, self._delivered = sizes, now
            until = time.monotonic() + LAST_S if last else None
            for line in deliver(self.run, until, all_at_once=last):
                self._say(line)
        # Storage that is full or away, a damaged record: the agent and the ranks speak of those themselves.
        except (OSError, MegabiomedError, ValueError) as error:
            if str(error) not in self._troubles:
                self._troubles.add(str(error))
                self._say(f"notify: {error}")

    def _say(self, line: str) -> None:
        print(f"{records.now()} [{self.owner}] {line}", flush=True)  # in job.log


def main(run: Path, incarnation: str) -> None:
    """Watch until USR2 comes, or the batch script is gone."""
    guard_process()
    leave = threading.Event()
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the script decides, after its agent
    signal.signal(signal.SIGUSR2, lambda *_: leave.set())
    watch, script = Watch(run, incarnation), os.getppid()
    while not leave.is_set() and os.getppid() == script:
        watch.look()
        leave.wait(EVERY_S)
    watch.look(last=True)
    sys.stdout.flush()
    os._exit(0)  # an attempt that is still under way is noted as unclear


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
