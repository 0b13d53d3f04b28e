"""Questions and perplexities of `eval` on the model that is being trained."""

from __future__ import annotations

from megabiomed.evaluate.in_training import TrainingEvaluation
from megabiomed.processes.signals import Request
from megabiomed.runs.hooks.base import Hook
from megabiomed.runs.training import Ending, Training


class Evaluation(Hook):
    """Evaluates every `eval.every` steps. Disturbs neither data order nor state nor random numbers.

    Args:
        evaluation: the sets that were read; None where `eval` asks for nothing.
    """

    def __init__(self, evaluation: TrainingEvaluation | None) -> None:
        self._evaluation = evaluation

    def at_start(self, training: Training) -> None:
        """See the base class."""
        if training.step == 0 and training.config.eval.every:
            self.measure(training)

    def between_steps(self, training: Training, asked: Request) -> None:
        """See the base class."""
        every = training.config.eval.every
        if every and training.step % every == 0:
            self.measure(training)

    def at_end(self, training: Training, ending: Ending) -> None:
        """See the base class."""
        if ending.outcome == "finished":
            self.measure(training)

    def measure(self, training: Training) -> None:
        """Ask everything and report. Collective."""
        if self._evaluation is None:
            return
        found = training.module.evaluate(self._evaluation, lambda: training.guard.beat("evaluation", training.step))
        training.reporter.evaluation(training.step, found)
