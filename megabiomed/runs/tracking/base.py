"""What a tracker of experiments is, and how a run finds the one that its configuration names."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

from megabiomed.config import RunConfig, TrackingConfig
from megabiomed.ground.registry import Registry

_LOG = logging.getLogger(__name__)
_METHODS = ("start", "metrics", "event", "finish")


class Tracker(Protocol):
    """Gets everything that a run reports, on rank 0 alone. It is made without arguments.

    A tracker that fails is switched off for the rest of the run, with a warning; it never ends the training.

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
    """A tracker whose failure is reported once and never ends the training.

    Args:
        make: makes the tracker, when the run starts.
    """

    def __init__(self, make: Callable[[], Tracker]) -> None:
        self.name = str(getattr(make, "name", "the tracker"))
        self._make = make
        self._tracker: Tracker | None = None

    def start(self, config: RunConfig) -> None:
        """See `Tracker`."""
        try:
            self._tracker = self._make()
        except Exception as error:
            self._switch_off(error)
        self._safely(lambda tracker: tracker.start(config))

    def metrics(self, values: dict[str, float], step: int) -> None:
        """See `Tracker`."""
        self._safely(lambda tracker: tracker.metrics(values, step))

    def event(self, kind: str, values: dict[str, Any]) -> None:
        """See `Tracker`."""
        self._safely(lambda tracker: tracker.event(kind, values))

    def finish(self, status: str) -> None:
        """See `Tracker`."""
        self._safely(lambda tracker: tracker.finish(status))

    def _safely(self, action: Callable[[Tracker], None]) -> None:
        if self._tracker is None:
            return
        try:
            action(self._tracker)
        except Exception as error:
            self._switch_off(error)

    def _switch_off(self, error: Exception) -> None:
        _LOG.warning("%s is switched off for this run: %s", self.name, error)
        self._tracker = None
