"""What is trained, as the trainer and its hooks see it; and how a kind of run composes it with its data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.config import RunConfig
from megabiomed.data.loader import HeldOutLoader, SampleLoader, StepBatch
from megabiomed.engine.build import StepResult, TrainEngine
from megabiomed.engine.mesh import Mesh
from megabiomed.evaluate.in_training import TrainingEvaluation


@dataclass(frozen=True)
class RunData:
    """What a run reads.

    Attributes:
        loader: gives the steps, endlessly.
        tokenizer: file that every checkpoint gets a copy of.
        held_out: validation texts, where there are any.
        notes: lines about the data for the operator.
        warnings: of the same; they are events too.
        left_out: what no window holds, by path; a part of the event that the run begins with.
    """

    loader: SampleLoader
    tokenizer: Path
    held_out: HeldOutLoader | None = None
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    left_out: dict[str, dict[str, int]] = field(default_factory=dict)


class TrainModule(Protocol):
    """What is trained, spread over all ranks. All methods are collective."""

    @property
    def engine(self) -> TrainEngine:
        """Holds the weights and the optimizer's state, for checkpoints."""

    @property
    def begins_with_folder(self) -> bool:
        """Whether a run that begins has the weights of `model.init_from` and no others, so that they can be certified."""

    def load_initial(self) -> None:
        """Weights of a run that begins."""

    def train_step(self, batch: StepBatch, lr: float) -> StepResult:
        """One optimizer step.

        Args:
            lr: learning rate of this step; the peak is `optimizer.lr`.
        """

    def held_out_losses(self, tick: Callable[[], None]) -> dict[str, tuple[float, int]]:
        """Summed loss in nats and number of unmasked tokens of held-out data, by name; `validation_loss` is the first.

        Empty without held-out data.

        Args:
            tick: called now and then on all ranks together; it raises on all of them to break off.
        """

    def evaluate(self, evaluation: TrainingEvaluation, tick: Callable[[], None]) -> dict[str, float]:
        """Figures of the questions and texts of `eval`, by name.

        Args:
            tick: as in `held_out_losses`.
        """


class Run(ABC):
    """One training run: its configuration, its data, what is trained. A kind of run is such a class and nothing more.

    Attributes:
        whole: the run that this one is a part of; its control files count too.
    """

    def __init__(self, config: RunConfig, whole: RunConfig | None = None) -> None:
        self.config, self.whole = config, whole

    @property
    def configs(self) -> list[RunConfig]:
        """Configurations of the run folders that this run writes: that of the whole, and its own."""
        return [self.config] if self.whole is None else [self.whole, self.config]

    @abstractmethod
    def open_data(self, mesh: Mesh) -> RunData:
        """Open and check the data, before anything is built. Collective."""

    @abstractmethod
    def build(self, mesh: Mesh, resumed: Checkpoint | None) -> TrainModule:
        """What is trained, without its weights yet. Collective; called once, after `open_data`.

        Args:
            resumed: the checkpoint whose weights it will get; None for a run that begins.
        """
