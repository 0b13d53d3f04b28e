"""Batches that a step must not learn from: a loss that is not a number, and tokens that are garbage."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from bench.health_plan import Plan
from megabiomed.data.loader import StepBatch
from megabiomed.data.packing import IGNORE_INDEX, MicroBatch
from megabiomed.engine.build import StepResult
from megabiomed.runs.hooks import Hook
from megabiomed.runs.trainer import Trainer
from megabiomed.runs.training import Training


class BadSteps(Hook):
    """Spoils the batches of the steps of a plan on their way into the model."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        # By samples: a run that went back meets other ones at the same step.
        self._at = {(step - 1) * plan.config().data.global_batch_size for step in plan.at}

    def into(self, trainer: Trainer) -> None:
        """See `health_worker.Injection`."""
        trainer.hooks.insert(0, self)

    def at_start(self, training: Training) -> None:
        """See the base class."""
        module = training.module
        original, replica = module.train_step, training.mesh.coordinate("replicas")
        spoil = {"nan": self._not_a_number, "garbage": self._garbage}[self._plan.kind]

        def train_step(batch: StepBatch, lr: float) -> StepResult:
            if batch.first_sample not in self._at:
                return original(batch, lr)
            return original(spoil(batch, replica, training), lr)

        module.train_step = train_step  # type: ignore[method-assign]

    def found(self) -> dict[str, Any]:
        """See `health_worker.Injection`."""
        return {}

    def _not_a_number(self, batch: StepBatch, replica: int, training: Training) -> StepBatch:
        """One micro-batch of one replica counts NaN or infinitely."""
        dice = self._plan.dice(batch.first_sample)
        struck, value = dice.randrange(training.mesh.size("replicas")), dice.choice([math.nan, math.inf, -math.inf])
        if replica == struck:
            run = training.module.engine.pipeline.run
            pipeline = training.module.engine.pipeline

            def once(batches: Any, scale: float) -> torch.Tensor:
                del pipeline.run  # type: ignore[attr-defined]
                return run(batches, scale * value)

            pipeline.run = once  # type: ignore[method-assign]
        return batch

    def _garbage(self, batch: StepBatch, replica: int, training: Training) -> StepBatch:
        """Random tokens in the place of all that are read and all that are to be told."""
        rng = np.random.default_rng([self._plan.seed, batch.first_sample, replica])
        vocabulary = training.config.model.vocab_size

        def garbage(held: MicroBatch) -> MicroBatch:
            tokens, labels = (torch.from_numpy(rng.integers(3, vocabulary, held.tokens.numel())) for _ in range(2))
            labels[held.labels == IGNORE_INDEX] = IGNORE_INDEX
            return replace(held, tokens=tokens, labels=labels)

        return replace(batch, micro_batches=[garbage(held) for held in batch.micro_batches])
