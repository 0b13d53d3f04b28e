"""How long a run goes on after a save that failed, and when it tries again."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import IntEnum

FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 120.0
LAST_ATTEMPTS = 8
"""Tries of the last save of a start, over four minutes: no step passes any more by which `max_unsaved_steps` could count."""


class Trouble(IntEnum):
    """How a rank stands with the last save; of several ranks the largest counts."""

    NONE = 0
    WAIT = 1
    """It failed, or is under way for too long; not yet to be tried again."""
    RETRY = 2
    FATAL = 3
    """It cannot go well, or `max_unsaved_steps` is passed."""


class Unsaved:
    """One rank's account of saves that failed; no collective is in it.

    Args:
        max_steps: steps that a run may train after the first save that failed; 0: it ends with that save.

    Attributes:
        since: step of the first save that failed after the last that went well; None: none did.
        error: what the newest attempt raised.
        fatal: whether that one is not to be tried again.
        owed: whether a save was due while the one before was still being written.
    """

    def __init__(self, max_steps: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_steps, self._clock = max_steps, clock
        self.error: BaseException | None = None
        self.fatal = False
        self.owed = False
        self.saved()

    def saved(self) -> None:
        """A save went well."""
        self.since: int | None = None
        self.attempts = 0
        self.pause_s = FIRST_PAUSE_S
        self._again = 0.0

    def failed(self, step: int, error: BaseException) -> None:
        """The save of a step raised this."""
        self.error = error
        self.fatal = not self._max_steps or not getattr(error, "passing", False)
        self.since = step if self.since is None else self.since
        self.attempts += 1
        # Storage that fills up again and again is not helped by writing into it at every step.
        self.pause_s = min(FIRST_PAUSE_S * 2 ** (self.attempts - 1), LONGEST_PAUSE_S)
        self._again = self._clock() + self.pause_s

    def late(self, step: int) -> None:
        """A save is due after this step, and the one before is still being written."""
        self.owed = True
        self.since = step if self.since is None else self.since

    def trouble(self, step: int, writing: bool) -> Trouble:
        """Where this rank stands after a step.

        Args:
            writing: whether a save is under way.
        """
        if self.fatal or (self.since is not None and step - self.since > self._max_steps):
            return Trouble.FATAL
        if self.since is None and not self.owed:
            return Trouble.NONE
        if writing or (not self.owed and self._clock() < self._again):
            return Trouble.WAIT
        return Trouble.RETRY
