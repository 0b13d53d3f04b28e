"""Questions and perplexities of `eval` on the model that is being trained."""

from __future__ import annotations

from megabiomed.evaluate.in_training import TrainingEvaluation
from megabiomed.runs.hooks.measurement import Measurement
from megabiomed.runs.training import Training


class Evaluation(Measurement):
    """Evaluates every `eval.every` steps. Disturbs neither data order nor state nor random numbers.

    Args:
        evaluation: the sets that were read; None where `eval` asks for nothing.
    """

    kind = "evaluation"

    def __init__(self, evaluation: TrainingEvaluation | None) -> None:
        self._evaluation = evaluation

    def every(self, training: Training) -> int:
        """`eval.every`."""
        return training.config.eval.every

    def measure(self, training: Training) -> None:
        """Ask everything and report. Collective."""
        if self._evaluation is None:
            return
        training.guard.beat(self.kind, training.step)
        # An evaluation may outlast the limit of the hang guard, so it beats while it goes on.
        found = training.module.evaluate(self._evaluation, lambda: self.goes_on(training))
        training.reporter.evaluation(training.step, found)
