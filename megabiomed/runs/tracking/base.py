"""What a tracker of experiments is, and how a run finds the one that its configuration names."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

from megabiomed.config import RunConfig, TrackingConfig
from megabiomed.ground.registry import Registry
from megabiomed.ground.secrets import masked

_LOG = logging.getLogger(__name__)
# From five minutes to an hour: a server that is down must not be asked after every step.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 300.0, 3600.0
_METHODS = ("start", "metrics", "event", "finish")


class Tracker(Protocol):
    """Gets everything that a run reports, on rank 0 alone. It is made without arguments.

    A tracker that fails is said to, made anew some minutes later, and never ends the training.

    Attributes:
        name: for messages.
    """

    name: str

    def start(self, config: RunConfig) -> None:
        """A start of the run begins. After an interruption the same run goes on: its folder is the same."""

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Figures after a step, by names like `train/loss`. They may be infinite or NaN."""

    def event(self, kind: str, values: dict[str, Any]) -> None:
        """Something happened: "start", "resume", "save", "warning", "failed", "finished" and others."""

    def finish(self, status: str) -> None:
        """The start is over: "FINISHED", "KILLED" (it goes on later) or "FAILED"."""


TRACKERS: Registry[Callable[[], Tracker]] = Registry(
    "tracker",
    {"mlflow": "megabiomed.runs.tracking.mlflow_tracker:MlflowTracker"},
    lambda held: callable(held) and all(hasattr(held, method) for method in _METHODS),
    f"a class with the methods {', '.join(_METHODS)}",
)
"""Trackers by the value of `tracking.kind`."""


def find_tracker(config: TrackingConfig) -> Callable[[], Tracker] | None:
    """The class of the tracker that `tracking` asks for; None where it asks for none.

    Raises:
        ConfigError: there is no such tracker.
    """
    if config.kind is None or (config.kind == "mlflow" and not config.mlflow):
        return None
    return TRACKERS.find(config.kind)


class SafeTracker:
    """A tracker whose failure is said on the terminal and never ends the training; it is tried again later.

    Args:
        make: makes the tracker, when the run starts and after a failure.
        say: prints a line on the terminal of the run.
        clock: seconds; the pause after a failure doubles from `FIRST_PAUSE_S` to `LONGEST_PAUSE_S`.
    """

    def __init__(
        self,
        make: Callable[[], Tracker],
        say: Callable[[str], None] = _LOG.warning,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = str(getattr(make, "name", "the tracker"))
        self._make = make
        self._say = say
        self._clock = clock
        self._tracker: Tracker | None = None
        self._config: RunConfig | None = None
        self._pause, self._again = FIRST_PAUSE_S, 0.0

    def start(self, config: RunConfig) -> None:
        """See `Tracker`."""
        self._config = config
        self._open(config)

    def metrics(self, values: dict[str, float], step: int) -> None:
        """See `Tracker`."""
        self._safely(lambda tracker: tracker.metrics(values, step))

    def event(self, kind: str, values: dict[str, Any]) -> None:
        """See `Tracker`."""
        self._safely(lambda tracker: tracker.event(kind, values))

    def finish(self, status: str) -> None:
        """See `Tracker`."""
        self._safely(lambda tracker: tracker.finish(status))

    def _open(self, config: RunConfig) -> None:
        try:
            tracker = self._make()
            tracker.start(config)
        # Whatever it raises: a tracker may be anybody's code, and the figures are in metrics.jsonl as well.
        except Exception as error:
            self._put_off(error)
            return
        if self._again:
            self._say(f"{self.name} answers again")
        self._tracker, self._again = tracker, 0.0

    def _safely(self, action: Callable[[Tracker], None]) -> None:
        if self._tracker is None and self._config is not None and self._clock() >= self._again:
            self._open(self._config)
        if self._tracker is None:
            return
        try:
            action(self._tracker)
        except Exception as error:
            self._put_off(error)
            return
        # It answered: after the next failure the shortest pause counts again.
        self._pause = FIRST_PAUSE_S

    def _put_off(self, error: Exception) -> None:
        self._tracker, self._again = None, self._clock() + self._pause
        again = f"tried again in {self._pause / 60:.0f} min"
        self._say(f"warning: {self.name} fails: {masked(str(error))}; figures go on in metrics.jsonl, {again}")
        self._pause = min(LONGEST_PAUSE_S, 2 * self._pause)
