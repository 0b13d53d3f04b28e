"""Weights & Biases: one run there for a run here, whatever number of starts it has. Needs the package `wandb`.

Who logs in, and whether it sends at all (`WANDB_MODE=offline`), is said by wandb's own variables and files.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import wandb

from megabiomed.config import RunConfig
from megabiomed.runs.tracking.base import Figures

_RUN_ID = "wandb_run_id"


class WandbTracker:
    """Logs the configuration and figures; the project is `tracking.experiment`."""

    name = "Weights & Biases"

    def __init__(self) -> None:
        self._run: Any = None

    def start(self, config: RunConfig) -> None:
        """See `Tracker`."""
        stored = config.folder / _RUN_ID
        ident = stored.read_text().strip() if stored.is_file() else secrets.token_hex(6)
        self._run = wandb.init(
            project=config.tracking.experiment, name=config.name, id=ident, resume="allow", dir=str(config.folder),
            config=config.model_dump(mode="json"), settings=wandb.Settings(silent=True, console="off"),
        )  # fmt: skip
        stored.write_text(ident + "\n")
        # Its own counter refuses a step that comes again after a resume; a figure named step may go back.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def metrics(self, figures: Sequence[Figures]) -> None:
        """See `Tracker`."""
        for figure in figures:
            self._run.log({"step": figure.step, "_timestamp": figure.time, **figure.values})

    def event(self, kind: str, values: dict[str, Any]) -> None:
        """See `Tracker`."""
        if kind == "warning":
            self._run.alert(title=f"warning: {self._run.name}", text=str(values.get("what", kind)))

    def finish(self, status: str) -> None:
        """See `Tracker`."""
        self._run.finish(exit_code={"FINISHED": 0, "KILLED": 0}.get(status, 1))
