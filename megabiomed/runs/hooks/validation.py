"""The loss of held-out data, before the first step, at intervals and at the end."""

from __future__ import annotations

from megabiomed.ground.figures import shown
from megabiomed.processes.signals import Request
from megabiomed.runs.hooks.base import Hook
from megabiomed.runs.training import Ending, Training


class Validation(Hook):
    """Measures every `train.eval_every` steps. Disturbs neither data order nor state."""

    def at_start(self, training: Training) -> None:
        """See the base class."""
        if training.step == 0 and training.config.train.eval_every:
            self.measure(training)

    def between_steps(self, training: Training, asked: Request) -> None:
        """See the base class."""
        every = training.config.train.eval_every
        if every and training.step % every == 0:
            self.measure(training)

    def at_end(self, training: Training, ending: Ending) -> None:
        """See the base class."""
        if ending.outcome == "finished":
            self.measure(training)

    def measure(self, training: Training) -> None:
        """Report the mean loss per token, and how far other held-out losses are from it. Collective."""
        training.guard.beat("validation", training.step)
        found = training.module.held_out_losses()
        if not found:
            return
        means = {name: (total / max(1, tokens), tokens) for name, (total, tokens) in found.items()}
        (loss, tokens), *others = means.values()
        training.reporter.validation(training.step, loss, tokens)
        for name, (other, _) in zip(list(means)[1:], others):
            training.reporter.say(f"{name}: {shown(other, '.4f')} gap: {shown(other - loss, '+.4f')}")
