"""What is said about the steps and about how a start ended."""

from __future__ import annotations

import sys

from megabiomed.runs.hooks.base import Hook
from megabiomed.runs.metrics import Reporter
from megabiomed.runs.training import Ending, Position, Step, Training


class Reports(Hook):
    """A line for each logged step, and the last words."""

    def at_start(self, training: Training) -> None:
        """See the base class."""
        training.reporter.start_clock()

    def after_step(self, training: Training, step: Step) -> None:
        """See the base class."""
        result = step.result
        figures = (result.loss, result.grad_norm, step.lr, result.loss_tokens, result.visible_pairs)
        training.reporter.add({"train/tokens": float(training.position.tokens)})
        training.reporter.step(step.number, *figures)

    def at_end(self, training: Training, ending: Ending) -> None:
        """See the base class."""
        reporter, progress = training.reporter, training.position.progress
        reporter.summary()
        reason = f" ({ending.reason})" if ending.reason else ""
        reporter.say(
            f"{ending.outcome}{reason}: step {training.step} of {training.total}, sample {progress.next_sample}, "
            f"ids {progress.ids_hash}"
        )
        if ending.reason and training.mesh.rank:  # rank 0 has said it above; of the others, each knows its own alone
            said = f"{ending.outcome}: rank {training.mesh.rank} was asked to leave: {ending.reason}"
            print(said, file=sys.stderr, flush=True)
        note_ending(reporter, ending.outcome, training.position)
        reporter.finish("FINISHED" if ending.outcome == "finished" else "KILLED")


def note_ending(reporter: Reporter, outcome: str, position: Position) -> None:
    """The event by which a scheduler knows how the run ended."""
    progress = position.progress
    reporter.event(outcome, step=position.step, sample=progress.next_sample, ids_hash=progress.ids_hash)
