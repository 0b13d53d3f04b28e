"""One rank of `make bench-campaign` and `make bench-goodput`: a submitted run, as it is, with faults that can be asked for.

python fault_rank.py -m MODULE WORDS...     (in the place of the cluster file's `python`)

A file KIND.RANK in the folder $BENCH_FAULTS asks for one fault of one rank before its next step: `nan` makes the loss of
the step not a number, `flip` turns one bit of a tensor that the rank holds. The file is gone once that has happened.
"""

from __future__ import annotations

import math
import os
import random
import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from megabiomed.data.loader import StepBatch
from megabiomed.runs.hooks import Hook
from megabiomed.runs.trainer import Trainer
from megabiomed.runs.training import Training

FOLDER = "BENCH_FAULTS"
_AS_EVERY_RUN = Trainer.__init__


class Faults(Hook):
    """Does what is asked for, once each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def before_step(self, training: Training, batch: StepBatch) -> None:
        """See the base class."""
        for kind, strike in KINDS.items():
            asked = self._folder / f"{kind}.{training.mesh.rank}"
            if asked.exists():
                asked.unlink()
                strike(training)
                print(f"{time.time():.3f} fault: {kind} in step {training.step + 1}", flush=True)


def not_a_number(training: Training) -> None:
    """The loss of the next micro-batches of this rank."""
    pipeline = training.module.engine.pipeline
    run = pipeline.run

    def once(batches: Any, scale: float) -> torch.Tensor:
        del pipeline.run
        return run(batches, scale * math.nan)

    pipeline.run = once  # type: ignore[method-assign]


def flip(training: Training) -> None:
    """One bit of one element, of a weight, a master or a moment."""
    dice = random.Random(training.step)
    held = [each.tensor for each in training.module.engine.held() if each.tensor is not None and each.tensor.numel()]
    flat = dice.choice(held).detach().view(-1).view(torch.uint8)
    flat[dice.randrange(flat.numel())] ^= 1 << dice.randrange(8)


KINDS: dict[str, Callable[[Training], None]] = {"nan": not_a_number, "flip": flip}


def with_faults(trainer: Trainer, *given: Any) -> None:
    """In the place of the trainer's construction."""
    _AS_EVERY_RUN(trainer, *given)
    trainer.hooks.insert(0, Faults(Path(os.environ[FOLDER])))


def main() -> None:
    """As `python -m MODULE WORDS...`."""
    _, _, module, *words = sys.argv
    Trainer.__init__ = with_faults  # type: ignore[assignment, method-assign]
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
