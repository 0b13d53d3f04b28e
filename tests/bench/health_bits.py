"""One flipped bit in what the ranks hold: a weight, a gradient, a moment of the optimizer."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch

from bench.health_plan import Plan
from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.data.loader import StepBatch
from megabiomed.ground.errors import CorruptionError
from megabiomed.processes import messages
from megabiomed.runs.checkpointing import load
from megabiomed.runs.hooks import Hook
from megabiomed.runs.trainer import Trainer
from megabiomed.runs.training import Training

_KEPT = 3
"""The step whose state is loaded again after each event."""


class Bits(Hook):
    """Flips one bit on one rank, and after the run has noticed it goes back to a sound state instead of ending."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._told: list[dict[str, Any]] = []
        self._flipped: list[int] = []
        self._dirty = False
        self._alarms = 0
        self._sound: Checkpoint | None = None

    def into(self, trainer: Trainer) -> None:
        """See `health_worker.Injection`."""
        trainer.hooks.insert(0, self)
        one = trainer._train_one

        def train_one(training: Training, batch: StepBatch) -> None:
            self._keep(training)
            try:
                one(training, batch)
            except CorruptionError as error:
                self._noticed(training, error)

        trainer._train_one = train_one  # type: ignore[method-assign]

    def found(self) -> dict[str, Any]:
        """See `health_worker.Injection`."""
        return {"told": self._told, "flipped": self._flipped, "alarms": self._alarms}

    def before_step(self, training: Training, batch: StepBatch) -> None:
        """See the base class."""
        number = training.step + 1
        if number not in self._plan.at:
            return
        # One that nobody noticed goes first.
        self._forget(training)
        dice = self._plan.dice(number)  # the same on every rank
        self._flipped.append(number)
        self._dirty = True
        FLIPS[self._plan.kind](training, dice)

    def _keep(self, training: Training) -> None:
        """Save the state to which the run goes back."""
        if self._sound is not None or training.step != _KEPT:
            return
        position = training.position
        training.checkpoints.save(position.step, position.progress, position.tokens, True, position.health.record())
        training.checkpoints.wait()
        training.checkpoints.committed()  # no save of the run, so no event
        self._sound = Checkpoint.open(self._plan.place / "checkpoints" / f"step_{_KEPT:08d}")

    def _noticed(self, training: Training, error: CorruptionError) -> None:
        self._alarms += not self._dirty
        if self._dirty:
            self._told.append({"at": self._flipped[-1], "step": training.step, "said": str(error)})
        self._forget(training)

    def _forget(self, training: Training) -> None:
        """Back to a sound state, on all ranks."""
        if self._dirty and self._sound is not None:
            load(training.module.engine, self._sound, self._sound.step)
        self._dirty = False


def flip(tensor: torch.Tensor, dice: random.Random) -> None:
    """One random bit of one random element."""
    flat = tensor.detach().view(-1).view(torch.uint8)
    flat[dice.randrange(flat.numel())] ^= 1 << dice.randrange(8)


def _in_state(training: Training, dice: random.Random, moments: bool) -> None:
    """A weight (a master, a part of one) or a moment that a rank holds from one update to the next."""
    if dice.randrange(training.mesh.world) != training.mesh.rank:
        return
    held = [each for each in training.module.engine.held() if ("(exp_avg" in each.name) == moments]
    flip(dice.choice([each.tensor for each in held if each.tensor is not None and each.tensor.numel()]), dice)


def _in_gradients(training: Training, dice: random.Random) -> None:
    """A reduced gradient that another rank holds too, before the update of this step."""
    engine = training.module.engine

    def flip_and_show() -> None:
        held = [each.tensor for each in engine.data_parallel.reduced_gradients() if each.tensor is not None]
        there = messages.broadcast(messages.gather(any(tensor.numel() for tensor in held)))
        if dice.choice([rank for rank, any_held in enumerate(there) if any_held]) == training.mesh.rank:
            flip(dice.choice([tensor for tensor in held if tensor.numel()]), dice)
        engine._see_gradients()

    # Asked for by the check of the step before, and called when the gradients are reduced.
    engine.data_parallel.see_gradients = flip_and_show


FLIPS: dict[str, Callable[[Training, random.Random], None]] = {
    "parameter": lambda training, dice: _in_state(training, dice, moments=False),
    "moment": lambda training, dice: _in_state(training, dice, moments=True),
    "gradient": _in_gradients,
}
