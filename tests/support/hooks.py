"""A training without ranks, model or data, for tests of what hooks do at their points."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from megabiomed.config import RunConfig
from megabiomed.data.loader import StepBatch
from megabiomed.data.progress import DataProgress
from megabiomed.engine.build import StepResult
from megabiomed.runs.training import Position, Step


class Told(list[tuple[Any, ...]]):
    """A reporter, guard, module or store of checkpoints that keeps what it is told."""

    def __getattr__(self, name: str) -> Any:
        return lambda *values, **named: self.append((name, *values, *named.items()))


def training(step: int, folder: Path | None = None, **parts: Any) -> Any:
    """A training after so many steps; parts that a test does not give keep what they are told."""
    config = RunConfig.model_validate({"name": "t", "run_dir": folder, "train": {"steps": 9, "eval_every": 2}})
    held: dict[str, Any] = {name: Told() for name in ("reporter", "guard", "checkpoints", "module")}
    position = Position(DataProgress(), step)
    held |= {"config": config, "step": step, "total": 9, "position": position, "loader": SimpleNamespace(documents=[])}
    return SimpleNamespace(**{**held, **parts})


def step(loss: float, grad_norm: float) -> Step:
    batch = StepBatch([], np.array([[0, 0, 7], [0, 0, 8]]), 14)
    return Step(3, batch, 0.1, StepResult(loss, grad_norm, 5, 15))
