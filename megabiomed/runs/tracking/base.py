"""What a tracker of experiments is, and how a run finds those that its configuration names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from megabiomed.config import RunConfig, TrackingConfig
from megabiomed.ground.registry import Registry

_METHODS = ("start", "metrics", "event", "finish")


class Figures(NamedTuple):
    """What was measured at a step.

    Attributes:
        time: seconds since 1970.
        values: by names like `train/loss`. What was not finite is NaN.
    """

    step: int
    time: float
    values: dict[str, float]


class Tracker(Protocol):
    """Gets everything that a run reports, on rank 0 alone, from a thread of its own. It is made without arguments.

    A tracker that fails is said to, made anew some time later, and told again from where it failed on. It never holds up or
    ends the training.

    Attributes:
        name: for messages.
    """

    name: str

    def start(self, config: RunConfig) -> None:
        """A start of the run begins. After an interruption the same run goes on: its folder is the same."""

    def metrics(self, figures: Sequence[Figures]) -> None:
        """Figures in the order in which they were measured: one of a step, or many after a tracker was away."""

    def event(self, kind: str, values: dict[str, Any]) -> None:
        """Something happened: "start", "resume", "save", "warning", "failed", "finished" and others."""

    def finish(self, status: str) -> None:
        """The start is over: "FINISHED", "KILLED" (it goes on later) or "FAILED"."""


Make = Callable[[], Tracker]
TRACKERS: Registry[Make] = Registry(
    "tracker",
    {
        "mlflow": "megabiomed.runs.tracking.mlflow_tracker:MlflowTracker",
        "prometheus": "megabiomed.runs.tracking.prometheus_file:PrometheusFile",
        "tensorboard": "megabiomed.runs.tracking.tensorboard_files:TensorBoardFiles",
        "wandb": "megabiomed.runs.tracking.wandb_tracker:WandbTracker",
    },
    lambda held: callable(held) and all(hasattr(held, method) for method in _METHODS),
    f"a class with the methods {', '.join(_METHODS)}",
)
"""Trackers by their names in `tracking.kind`."""


def find_trackers(config: TrackingConfig) -> dict[str, Make]:
    """The classes of the trackers that `tracking` asks for, by their names there.

    Raises:
        ConfigError: there is no such tracker.
    """
    wanted = [config.kind] if isinstance(config.kind, str) else config.kind or []
    return {kind: TRACKERS.find(kind) for kind in wanted if kind != "mlflow" or config.mlflow}
