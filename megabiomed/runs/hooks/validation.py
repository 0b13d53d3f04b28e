"""The loss of held-out data, before the first step, at intervals and at the end."""

from __future__ import annotations

from megabiomed.ground.figures import shown
from megabiomed.runs.hooks.measurement import Measurement
from megabiomed.runs.training import Training


class Validation(Measurement):
    """Measures every `train.eval_every` steps. Disturbs neither data order nor state."""

    kind = "validation"

    def every(self, training: Training) -> int:
        """`train.eval_every`."""
        return training.config.train.eval_every

    def measure(self, training: Training) -> None:
        """Report the mean loss per token, and how far other held-out losses are from it. Collective."""
        training.guard.beat(self.kind, training.step)
        found = training.module.held_out_losses(lambda: self.goes_on(training))
        if not found:
            return
        means = {name: (total / max(1, tokens), tokens) for name, (total, tokens) in found.items()}
        (loss, tokens), *others = means.values()
        training.reporter.validation(training.step, loss, tokens)
        for name, (other, _) in zip(list(means)[1:], others):
            training.reporter.say(f"{name}: {shown(other, '.4f')} gap: {shown(other - loss, '+.4f')}")
