"""How long each phase of a start takes, from the command to the end of the first step."""

from __future__ import annotations

import os
import time
from pathlib import Path

STARTED = "MEGABIOMED_STARTED"
"""Variable with the time at which the command on this host started, in seconds since boot."""


class Phases:
    """Seconds between the ends of phases; several with the same name add up, in the order in which they first ended.

    Args:
        started: when this process started, in seconds since boot.
        command: when the command that started it did; None where it was not started by one.
    """

    def __init__(self, started: float, command: float | None = None) -> None:
        self._begin(started, command)

    def _begin(self, started: float, command: float | None) -> None:
        self.seconds: dict[str, float] = {}
        self._last = started if command is None else command
        self._over = False
        if command is not None:
            self.ended("command", started)

    def restart(self) -> None:
        """Begin again as the phases of this process, a fork of the one that made them."""
        self._begin(process_started(), _command_started())

    def ended(self, phase: str, at: float | None = None) -> None:
        """A phase ends now, or at a time in seconds since boot; nothing more counts once the start is over."""
        if self._over:
            return
        at = since_boot() if at is None else at
        self.seconds[phase] = self.seconds.get(phase, 0.0) + at - self._last
        self._last = at

    def finish(self, phase: str) -> bool:
        """The last phase ends. False where the start was over already: a process may train several times."""
        first = not self._over
        self.ended(phase)
        self._over = True
        return first

    def lines(self) -> list[str]:
        """One line for each phase, and one for all."""
        found = [f"start, {phase}: {seconds:.1f} s" for phase, seconds in self.seconds.items()]
        return [*found, f"start: {sum(self.seconds.values()):.1f} s"]


def since_boot() -> float:
    """Seconds since the machine started, the clock of /proc."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def process_started() -> float:
    """When this process started, in seconds since boot (proc(5), stat, field 22)."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _command_started() -> float | None:
    told = os.environ.get(STARTED)
    return float(told) if told else None


START = Phases(process_started(), _command_started())
"""The start of this process, a rank of a run."""
