"""What a start took, said at the end of its first step."""

from __future__ import annotations

from megabiomed.processes.phases import START
from megabiomed.runs.hooks.base import Hook
from megabiomed.runs.training import Step, Training


class FirstStep(Hook):
    """A line for each phase of the start, and the event `first_step`, once in a process."""

    def after_step(self, training: Training, step: Step) -> None:
        """See the base class."""
        if not START.finish("first step"):
            return
        for line in START.lines():
            training.reporter.say(line)
        phases = {phase: round(seconds, 3) for phase, seconds in START.seconds.items()}
        training.reporter.event("first_step", step=step.number, seconds=round(sum(phases.values()), 3), phases=phases)
