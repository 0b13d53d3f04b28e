"""Steps whose loss or gradient norm is not a number, or a spike: what the run does is in `health` of its configuration."""

from __future__ import annotations

from megabiomed.data.loader import StepBatch
from megabiomed.data.trace import papers_of_step
from megabiomed.engine.gate import Limits
from megabiomed.ground.errors import MegabiomedError, NonFiniteError, SpikeError
from megabiomed.runs.health import Finding
from megabiomed.runs.hooks.base import Hook
from megabiomed.runs.training import RewindAsked, Step, Training


class HealthCheck(Hook):
    """Judges every step. The engine refuses updates by the same limits, so that the answer is that of every rank."""

    def __init__(self) -> None:
        self._kept: Step | None = None  # the last one whose gradient norms were written

    def at_start(self, training: Training) -> None:
        """See the base class."""
        training.module.engine.record_gradients(training.config.health.record_gradients != "off")

    def before_step(self, training: Training, batch: StepBatch) -> None:
        """See the base class."""
        settings = training.config.health
        if not settings.decides_on_device:
            return
        refuses = settings.spike not in ("off", "warn")
        limits = training.position.health.limits(settings) if refuses else Limits()
        training.module.engine.gate.limits = limits

    def check_step(self, training: Training, step: Step) -> None:
        """See the base class.

        Raises:
            NonFiniteError, SpikeError: the run is to stop there, or the budget is used up.
            RewindAsked: it is to rewind.
        """
        settings, health = training.config.health, training.position.health
        found = health.judge(step.result.loss, step.result.grad_norm, settings)
        if found is None:
            return
        policy = settings.non_finite if found.kind == "non_finite" else settings.spike
        _tell(training, step, found, policy)
        self._keep_gradients(training, step)
        if policy == "stop":
            raise _error(step, found, "", f"set health.{found.kind}=skip to go on without the step")
        if policy != "warn" and not health.spend(step.number, settings):
            raise _error(
                step, found, f", and the run skipped or rewound {settings.budget} times within {settings.window} steps",
                "the data or the settings are at fault; look at the events, or raise health.budget",
            )  # fmt: skip
        if policy == "rewind":
            raise RewindAsked(step)

    def after_step(self, training: Training, step: Step) -> None:
        """See the base class."""
        health = training.position.health
        if training.config.health.record_gradients == "log" and step.number % training.config.train.log_every == 0:
            self._keep_gradients(training, step)
        if step.result.applied:
            health.count(step.result.loss, step.result.grad_norm, training.config.health)
        else:
            health.skipped_steps += 1

    def _keep_gradients(self, training: Training, step: Step) -> None:
        """For a replay: steps of every number, finite or not, in one file."""
        norms = training.module.engine.gradient_norms.read()
        if norms and step is not self._kept:
            self._kept, result = step, step.result
            figures = {"loss": result.loss, "grad_norm": result.grad_norm}
            training.reporter.gradients(step.number, step.batch.first_sample, figures, norms)


def _tell(training: Training, step: Step, found: Finding, policy: str) -> None:
    """Events, curves and the step line, before an exception closes the trackers."""
    batch, reporter = step.batch, training.reporter
    first, size = batch.first_sample, len(batch.sample_ids)
    reporter.health(
        step.number, found.kind, found.value, policy=policy, **found.figures,
        samples=[first, size], windows=batch.sample_ids.tolist(),
        **(papers_of_step(training.loader, first, size) if reporter.active else {}),
    )  # fmt: skip
    done = {"skip": "update not applied", "warn": "update applied"}.get(policy)
    if done is not None:
        reporter.remark(f"{found.kind}: {found.text} ({done})")


def _error(step: Step, found: Finding, more: str, advice: str) -> MegabiomedError:
    batch = step.batch
    kind, what = (NonFiniteError, "not finite") if found.kind == "non_finite" else (SpikeError, "a spike")
    return kind(
        f"step {step.number} is {what}{more}",
        got=found.text,
        do=f"nothing was saved; the batch begins at global sample {batch.first_sample} (source, epoch, window of its first "
        f"samples: {batch.sample_ids[:3].tolist()}); lower optimizer.lr or resume from the last checkpoint; {advice}",
    )
