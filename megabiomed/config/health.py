"""What a run does at a step whose loss or gradient is not a number, or far above those before it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from megabiomed.config.base import Section


class HealthConfig(Section):
    """Steps that are not finite, and spikes of loss or gradient norm (docs/health.md)."""

    non_finite: Literal["stop", "skip", "rewind"] = "stop"
    """At a loss or gradient norm that is NaN or infinite. skip: the update is not applied; rewind: back to the newest
    checkpoint, and on with the samples behind the step; stop: the run ends with an error."""
    spike: Literal["off", "warn", "stop", "skip", "rewind"] = "warn"
    """At a loss or gradient norm more than `sigma` standard deviations above the mean of the last `window` applied steps.
    warn: an event, and the update is applied."""
    sigma: float = Field(6.0, gt=0)
    """Standard deviations above the mean that make a spike."""
    window: int = Field(128, ge=8, le=4096)
    """Applied steps that mean and standard deviation are of; there are no spikes before so many."""
    budget: PositiveInt = 10
    """Skips and rewinds within `window` steps that a run gets over; at the next one it ends with an error."""

    check_every: NonNegativeInt | None = None
    """Steps between checks for flipped bits in weights, masters and moments; also before each save. null: as many as keep the
    checks at 0.2 % of the time, measured in the first steps. 0: never."""
    record_gradients: Literal["off", "events", "log"] = "events"
    """Which steps leave the gradient norm of each tensor in gradients.jsonl, for `megabiomed replay`. events: those that are
    not finite, and spikes; log: also every `train.log_every` steps."""

    slow_share: float = Field(0.1, ge=0, lt=1)
    """Share of a step for which other ranks must wait for one until it is called slow. 0: nothing is measured."""
    slow_windows: PositiveInt = 3
    """Windows in a row in which they must; a window is `train.log_every` steps, or a multiple of that from 10 steps on."""

    gpu_every_s: NonNegativeInt = 60
    """Seconds between looks at the GPUs of each node (ECC, row remaps, Xids, NVLink, clocks), in a thread. 0: never."""

    @property
    def watches_spikes(self) -> bool:
        """Whether loss and norm are compared with those before."""
        return self.spike != "off"

    @property
    def decides_on_device(self) -> bool:
        """Whether the ranks have to agree in the step, before its update, on what they see."""
        return self.spike in ("stop", "skip", "rewind") or self.non_finite in ("skip", "rewind")
