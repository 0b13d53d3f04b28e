"""TensorBoard: event files in the run folder. Needs the package `tensorboard`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from megabiomed.config import RunConfig
from megabiomed.runs.tracking.base import Figures

_TOLD = ("warning", "resume", "save", "stopped", "ended", "finished", "failed")


class TensorBoardFiles:
    """Scalars by their names, and events as text at the step where they happened."""

    name = "TensorBoard"

    def __init__(self) -> None:
        self._writer: Any = None

    def start(self, config: RunConfig) -> None:
        """See `Tracker`."""
        self._writer = SummaryWriter(str(config.folder / "tensorboard"))

    def metrics(self, figures: Sequence[Figures]) -> None:
        """See `Tracker`."""
        for figure in figures:
            for name, value in figure.values.items():
                self._writer.add_scalar(name, value, figure.step, walltime=figure.time)
        self._writer.flush()

    def event(self, kind: str, values: dict[str, Any]) -> None:
        """See `Tracker`."""
        step = values.get("step")
        if kind in _TOLD and isinstance(step, int):
            rest = ", ".join(f"{name}: {value}" for name, value in values.items() if name not in ("time", "step"))
            self._writer.add_text(f"event/{kind}", rest or kind, step)

    def finish(self, status: str) -> None:
        """See `Tracker`."""
        self._writer.close()
