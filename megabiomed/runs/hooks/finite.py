"""A step whose loss or gradient is not a number ends the run before anything of it is saved."""

from __future__ import annotations

import math

from megabiomed.ground.errors import NonFiniteError
from megabiomed.runs.hooks.base import Hook
from megabiomed.runs.training import Step, Training


class FiniteCheck(Hook):
    """Refuses steps that are not finite. Loss and norm are the same on every rank, and so is the answer."""

    def check_step(self, training: Training, step: Step) -> None:
        """See the base class.

        Raises:
            NonFiniteError: loss or gradient norm is NaN or infinite.
        """
        result, batch = step.result, step.batch
        if math.isfinite(result.loss) and math.isfinite(result.grad_norm):
            return
        found = {"loss": str(result.loss), "grad_norm": str(result.grad_norm)}
        # Before the exception, which closes the trackers.
        training.reporter.event("non_finite", step=step.number, **found)
        raise NonFiniteError(
            f"step {step.number} is not finite",
            got=f"loss {result.loss}, grad_norm {result.grad_norm}",
            do=f"nothing was saved; the batch begins at global sample {batch.first_sample} "
            f"(source, epoch, window of its first samples: {batch.sample_ids[:3].tolist()}); lower optimizer.lr or resume "
            "from the last checkpoint",
        )
