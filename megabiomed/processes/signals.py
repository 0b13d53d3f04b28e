"""Requests to save or leave, from signals, the clock and files, shared by all ranks at a step boundary."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from enum import IntEnum
from pathlib import Path
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
CONTROL = "control"
STOP_AT, LOGS = "MEGABIOMED_STOP_AT", "MEGABIOMED_LOGS"
LATER = "stop_at"
"""File in the folder of logs: when to stop, after an operator has changed the time limit of a running job."""

WARNED = "warned"
"""File there: the batch script was asked to leave."""


def warned() -> bool:
    """Whether the job was asked to leave: for processes in containers, which are deaf to signals at first."""
    logs = os.environ.get(LOGS)
    return logs is not None and os.path.exists(os.path.join(logs, WARNED))


def hear() -> None:
    """Take back that SIGTERM and SIGUSR1 are ignored: the launcher does so for the program that a rank is wrapped in.

    Ranks set handlers of their own; this is for other programs that are started in their place.
    """
    for number in (signal.SIGTERM, signal.SIGUSR1):
        # The first process of a PID namespace, as podman starts it, is not ended by what nobody handles.
        if os.getpid() == 1:
            signal.signal(number, _end)
        elif signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)


class Request(IntEnum):
    """What was asked; of several the largest counts.

    STOP saves and leaves, to be resumed later; END (the kill switch) leaves for good: no scheduler starts the run again.
    """

    NONE = 0
    SAVE = 1
    STOP = 2
    END = 3


class StopFlag:
    """Catches SIGTERM, SIGUSR1 and SIGINT from construction on; made before torch is imported, so that none is missed.

    A launcher may also set MEGABIOMED_STOP_AT (seconds since 1970) as a second net under the scheduler's warning; rank 0 alone
    obeys it. At that time it looks whether the batch script has noted a later one. Rank 0 also looks whether the script was
    warned.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._controls: list[Path] = []
        self.requests_are_mine: Callable[[], bool] = lambda: True
        """Whether requests in files are for this start; those for the one that replaced it are left to that one."""
        # Rank 0 runs beside the batch script, by whose clock the deadline is meant; another node's may be wrong.
        self._beside_script = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"
        self._deadline = float(os.environ.get(STOP_AT, "inf")) if self._beside_script else float("inf")
        for number in STOP_SIGNALS:
            signal.signal(number, self._catch)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        # A second Ctrl-C is a person who does not want to wait for the save, or a run that hangs before its first step.
        if number == signal.SIGINT and self.received == "SIGINT":
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.received = signal.Signals(number).name

    def watch(self, run: Path) -> None:
        """Also obey the files control/save, control/pause and control/end of a run folder. Called by the rank that looks."""
        if run / CONTROL not in self._controls:
            self._controls.append(run / CONTROL)

    def mine(self) -> Request:
        """What this rank was asked to do; a request to save is removed from the disk."""
        leave = self._leave()
        if leave == Request.END:
            return leave
        saves = [control / "save" for control in self._controls if (control / "save").exists()]
        if saves and not self.requests_are_mine():
            saves = []
        for file in saves:
            file.unlink(missing_ok=True)
        return max(leave, Request.SAVE if saves else Request.NONE)

    def _leave(self) -> Request:
        """Whether this rank was asked to leave, and how; requests to save stay where they are."""
        if any((control / "end").exists() for control in self._controls):
            self.received = self.received or "kill switch"
            return Request.END
        if self.received is None and any((control / "pause").exists() for control in self._controls):
            self.received = "pause"
        if self.received is None and self._beside_script and warned():
            self.received = "warning to the job"
        if self.received is None and self._limit_is_near():
            self.received = "time limit"
        return Request.NONE if self.received is None else Request.STOP

    def _limit_is_near(self) -> bool:
        if time.time() < self._deadline:
            return False
        with suppress(KeyError, OSError, ValueError):  # not changed, or no job of a scheduler
            self._deadline = float((Path(os.environ[LOGS]) / LATER).read_text())
        return time.time() >= self._deadline

    def agreed(self, leaving: bool = False) -> Request:
        """The largest request of any rank. Collective: all ranks call it at the same step boundary.

        Args:
            leaving: whether only a request to leave is asked for; one to save is kept for the next step boundary.
        """
        return self._largest(self._leave() if leaving else self.mine(), 0)[0]

    def agreed_with(self, number: int) -> tuple[Request, int]:
        """As `agreed`, and the largest of the ranks' numbers, in the same collective."""
        return self._largest(self.mine(), number)

    def _largest(self, request: Request, number: int) -> tuple[Request, int]:
        import torch.distributed as dist

        from megabiomed.processes import messages

        # A signal reaches the ranks at different steps. Ranks that left alone would leave the others waiting in the next
        # collective, so the decision is a collective itself.
        asked, largest = messages.combined((int(request), number), dist.ReduceOp.MAX)
        return Request(int(asked)), int(largest)
