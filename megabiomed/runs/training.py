"""A training that is under way: what the loop and its hooks share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from megabiomed.config import RunConfig
from megabiomed.data.loader import SampleLoader, StepBatch
from megabiomed.data.progress import DataProgress
from megabiomed.engine.build import StepResult
from megabiomed.engine.mesh import Mesh
from megabiomed.processes.hang import HangGuard
from megabiomed.processes.signals import Request
from megabiomed.runs.health import RunHealth
from megabiomed.runs.metrics import Reporter
from megabiomed.runs.module import TrainModule
from megabiomed.runs.saves import Checkpoints
from megabiomed.runs.step_times import StepTimes


@dataclass
class Position:
    """How far a run is.

    Attributes:
        progress: position in the data.
        step: optimizer steps done.
        tokens: tokens read, padding included.
        health: loss and gradient norm of the steps before, by which the next ones are judged.
    """

    progress: DataProgress
    step: int = 0
    tokens: int = 0
    health: RunHealth = field(default_factory=RunHealth)

    def advance(self, batch: StepBatch, tokens: int, applied: bool = True) -> None:
        """Count a step that was done on this batch of so many tokens, and whose update was applied or not."""
        self.step += 1
        self.tokens += tokens
        progress, ids = self.progress, batch.sample_ids
        self.progress = progress.advance(ids, batch.marks) if applied else progress.skip(ids)


@dataclass(frozen=True)
class Step:
    """One optimizer step that was computed.

    Attributes:
        number: 1 for the first of the run.
        lr: learning rate.
    """

    number: int
    batch: StepBatch
    lr: float
    result: StepResult


@dataclass(frozen=True)
class Ending:
    """How a start ends.

    Attributes:
        outcome: "finished", "stopped" (to go on later) or "ended" (for good).
        reason: the signal or request that stopped it, on the ranks that got it.
    """

    outcome: str
    reason: str | None = None


class LeaveAsked(Exception):
    """All ranks were asked to leave in the middle of a measurement.

    Args:
        request: STOP or END.
    """

    def __init__(self, request: Request) -> None:
        super().__init__(request.name)
        self.ending = "ended" if request == Request.END else "stopped"


class RewindAsked(Exception):
    """A hook refuses a step on all ranks, and with it all steps since the newest checkpoint.

    Args:
        step: the last one that is refused.
    """

    def __init__(self, step: Step) -> None:
        super().__init__(f"step {step.number}")
        self.step = step


@dataclass
class Training:
    """What hooks may use. The same on every rank but for `times` and `reporter`, which speaks on rank 0 alone.

    Attributes:
        total: optimizer steps of the run; a rewind changes it where the length is given in epochs.
        position: moves with every step.
        leave: the request to leave that the ranks agree on, if any. Collective.
        times: where the time of this rank's steps goes.
    """

    config: RunConfig
    mesh: Mesh
    module: TrainModule
    total: int
    position: Position
    reporter: Reporter
    guard: HangGuard
    checkpoints: Checkpoints
    loader: SampleLoader
    leave: Callable[[], Request]
    times: StepTimes = field(default_factory=StepTimes)

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.position.step
