"""Loss and gradient norm of a run's newest steps, and which steps are far above them.

The rule is that of OLMo 2 (OLMo et al. 2024, SkipStep): a value is a spike when it exceeds the mean of a window by some
standard deviations. Of gradient norms the logarithms count, which OLMo does not take: norms are positive and skewed, and the
more so the smaller a batch is. Everything here is plain arithmetic of floats that all ranks have, and is stored with a
checkpoint, so that a resumed run decides as the uninterrupted one does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from megabiomed.checkpoint.state import Health
from megabiomed.config.health import HealthConfig
from megabiomed.engine.gate import Limits

LEAST_DEVIATION = 1e-3
"""Smallest standard deviation that counts, as a share of the mean: where all values are equal, rounding is no spike."""


_SMALLEST = 1e-300
_LARGEST_LOG = 700.0


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation of some values, or of their logarithms.

    The deviation is at least `LEAST_DEVIATION` of the mean, and so it is of logarithms.
    """

    mean: float
    deviation: float
    of_logarithms: bool = False

    @classmethod
    def of(cls, values: Sequence[float], of_logarithms: bool = False) -> Spread:
        """Of two values or more; the exact sums are rounded once, so that their order does not matter."""
        held = [math.log(max(value, _SMALLEST)) for value in values] if of_logarithms else values
        mean = math.fsum(held) / len(held)
        variance = math.fsum((value - mean) ** 2 for value in held) / (len(held) - 1)
        least = LEAST_DEVIATION * (1.0 if of_logarithms else abs(mean))
        return cls(mean, max(math.sqrt(variance), least), of_logarithms)

    def limit(self, sigma: float) -> float:
        """The largest value that is no spike."""
        top = self.mean + sigma * self.deviation
        return math.exp(min(top, _LARGEST_LOG)) if self.of_logarithms else top

    def sigmas(self, value: float) -> float:
        """Standard deviations by which a value is above the mean."""
        place = math.log(max(value, _SMALLEST)) if self.of_logarithms else value
        return (place - self.mean) / self.deviation if self.deviation else math.inf

    @property
    def centre(self) -> float:
        """The mean in the unit of the values: of logarithms the geometric one."""
        return math.exp(self.mean) if self.of_logarithms else self.mean


@dataclass(frozen=True)
class Finding:
    """What is wrong with a step.

    Attributes:
        kind: "non_finite" or "spike".
        figures: for the event.
        text: the same for people.
        value: for the curve: standard deviations above the mean; 1 for a step that is not finite.
    """

    kind: str
    figures: dict[str, object]
    text: str
    value: float = 1.0


@dataclass
class RunHealth:
    """Moves with every step.

    Attributes:
        skipped_steps: steps whose update was not applied.
        losses, grad_norms: of the newest applied steps, the oldest first.
        spent: steps at which the run skipped or rewound, as long as they count.
    """

    skipped_steps: int = 0
    losses: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    spent: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, record: Health | None) -> Self:
        """From a checkpoint; that of an earlier release has none."""
        if record is None:
            return cls()
        return cls(record.skipped_steps, list(record.losses), list(record.grad_norms), list(record.spent))

    def record(self) -> Health:
        """For a checkpoint."""
        return Health(
            skipped_steps=self.skipped_steps, losses=list(self.losses), grad_norms=list(self.grad_norms),
            spent=list(self.spent),
        )  # fmt: skip

    def limits(self, settings: HealthConfig) -> Limits:
        """Largest loss and norm of the next step that are no spikes."""
        if not settings.watches_spikes or len(self.losses) < settings.window:
            return Limits()
        loss, norm = self._spreads(settings)
        return Limits(loss.limit(settings.sigma), norm.limit(settings.sigma))

    def judge(self, loss: float, grad_norm: float, settings: HealthConfig) -> Finding | None:
        """What is wrong with the next step, if anything."""
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            figures: dict[str, object] = {"loss": str(loss), "grad_norm": str(grad_norm)}
            return Finding("non_finite", figures, f"loss {loss}, grad_norm {grad_norm}")
        limits, found = self.limits(settings), []
        named = (("loss", loss, limits.loss), ("grad_norm", grad_norm, limits.grad_norm))
        for number, (name, value, limit) in enumerate(named):
            if value > limit:
                found.append(_above(name, value, self._spreads(settings)[number], settings))
        if not found:
            return None
        value = max(sigmas for sigmas, _ in found)
        figures = {"loss": loss, "grad_norm": grad_norm, "sigmas": round(value, 2), "sigma": settings.sigma}
        figures |= {"window": settings.window, "loss_limit": limits.loss, "grad_norm_limit": limits.grad_norm}
        return Finding("spike", figures, "; ".join(text for _, text in found), value)

    def count(self, loss: float, grad_norm: float, settings: HealthConfig) -> None:
        """Remember a step that was applied."""
        if settings.watches_spikes:
            for values, value in zip(self._figures(), (loss, grad_norm)):
                values.append(value)
                del values[: -settings.window]

    def spend(self, step: int, settings: HealthConfig) -> bool:
        """Take a skip or a rewind at a step from the budget; False where it is used up."""
        self.spent = [*(earlier for earlier in self.spent if earlier > step - settings.window), step]
        return len(self.spent) <= settings.budget

    def _spreads(self, settings: HealthConfig) -> tuple[Spread, Spread]:
        """Of losses and of gradient norms, in the newest window."""
        losses, norms = (values[-settings.window :] for values in self._figures())
        return Spread.of(losses), Spread.of(norms, of_logarithms=True)

    def _figures(self) -> tuple[list[float], list[float]]:
        return self.losses, self.grad_norms


def _above(name: str, value: float, spread: Spread, settings: HealthConfig) -> tuple[float, str]:
    sigmas, kind = spread.sigmas(value), "geometric mean" if spread.of_logarithms else "mean"
    return sigmas, (
        f"{name} {value:.4g} is {sigmas:.1f} standard deviations above the {kind} {spread.centre:.4g} "
        f"of {settings.window} steps"
    )
