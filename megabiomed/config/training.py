"""Keys of a run's length, precision, intervals and time-outs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from megabiomed.config.base import Section
from megabiomed.config.time_limits import least_collective_s

_LONGEST_S = 1e8  # three years; torch counts a time-out in nanoseconds of 63 bits


class TrainConfig(Section):
    """Length, precision and intervals of the training."""

    steps: PositiveInt | None = None
    """Optimizer steps; give either steps or epochs."""
    epochs: float | None = Field(None, gt=0, le=1e6)
    """Passes over the training mixture; give either steps or epochs."""
    first_step: int = Field(0, ge=0)
    """Step of the checkpoint in checkpoint.resume from which this run goes on with its weights and optimizer, while warm-up,
    schedule and data begin anew; `steps` counts the earlier ones too."""
    # Not fp16: its range needs loss scaling, which would skip steps by a rule of its own beside `health`.
    precision: Literal["fp32", "bf16", "fp8"] = "bf16"
    """Compute type. bf16 keeps fp32 master weights and reduces gradients in fp32. fp8 is bf16 whose blocks multiply in fp8 in
    the forward pass and for the gradients of their inputs (docs/kernels.md); it needs sm_89 or later, a CPU emulates it."""
    z_loss: float = Field(0.0, ge=0)
    """Weight of the squared log-normaliser added to every token's training loss (Chowdhery et al. 2022); 0 is off."""
    log_every: PositiveInt = 1
    """Steps between log lines."""
    eval_every: int = Field(0, ge=0)
    """Steps between validation losses; 0 evaluates only at the end."""
    eval_samples: PositiveInt = 64
    """Validation samples per evaluation (fewer when the store is smaller)."""
    hang_timeout_s: float | None = Field(None, ge=0, le=_LONGEST_S)
    """A rank that does not advance for this many seconds writes its stack and ends the run; null: 20 times the slowest of the
    first steps, from 600 to 1800 (docs/operators.md); 0 disables the guard."""
    hang_start_timeout_s: float = Field(7200, gt=0, le=_LONGEST_S)
    """The same limit until the first step is done: reading and certifying weights takes longer than a step."""
    collective_timeout_s: float | None = Field(None, gt=0, le=_LONGEST_S)
    """Seconds after which torch ends a collective that a rank did not join; null: a fifth longer than the hang guard, which
    has to speak first. During the start the limit is longer than hang_start_timeout_s."""
    stop_after: PositiveInt | None = None
    """Save and exit after this many steps of this invocation (a planned interruption)."""

    @property
    def compute_type(self) -> Literal["fp32", "bf16"]:
        """The type of weights and activations in memory: fp8 exists inside products alone."""
        return "fp32" if self.precision == "fp32" else "bf16"

    # torch would end the ranks before any of them could say where it stands.
    @model_validator(mode="after")
    def _guard_speaks_first(self) -> TrainConfig:
        least = least_collective_s(self.hang_timeout_s)
        if self.collective_timeout_s is not None and self.collective_timeout_s < least:
            raise ValueError(
                f"collective_timeout_s {self.collective_timeout_s:g} is not after the hang guard; set {least:g} or more, "
                "lower hang_timeout_s, or remove it"
            )
        return self

    # Of two lengths one would be ignored; without any, a forgotten key would train for a default.
    @model_validator(mode="after")
    def _one_length(self) -> TrainConfig:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of train.steps and train.epochs")
        if self.steps is not None and self.steps <= self.first_step:
            raise ValueError(
                f"steps {self.steps} counts from the beginning; set more than first_step {self.first_step}"
            )
        return self
