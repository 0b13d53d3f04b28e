"""No language model: the engine of a rank that holds encoders and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from megabiomed.checkpoint.logical import Fragment, TensorSource
from megabiomed.data.packing import MicroBatch
from megabiomed.engine.base import DataParallelEngine, Held


class NoModelEngine(DataParallelEngine):
    """Holds, reads, stores and updates nothing."""

    def forward(self, chunk: int, x: Tensor | None, batch: MicroBatch, return_logits: bool = False) -> Tensor:
        """Never called: this rank is in no pipeline."""
        raise AssertionError("a rank without a language model was asked to run it")

    def begin_step(self) -> None:
        """Nothing to begin."""

    def step(self, lr: float) -> float:
        """Nothing to update."""
        return 0.0

    def held(self) -> Iterator[Held]:
        """Nothing."""
        return iter(())

    def train(self, mode: bool) -> None:
        """Nothing to switch."""

    def fragments(self) -> list[Fragment]:
        """None."""
        return []

    def frozen_fragments(self) -> list[Fragment]:
        """None."""
        return []

    def publish(self, source: TensorSource) -> None:
        """Nothing to fill."""

    def set_step_count(self, step: int) -> None:
        """There are no moments."""
