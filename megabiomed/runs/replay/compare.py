"""A step that was computed again beside what the run recorded of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from megabiomed.runs.replay.recorded import Recorded

BOUNDS = {"fp32": (1e-5, 1e-5, 2e-5), "bf16": (2e-3, 5e-3, 2e-2), "fp8": (5e-3, 2e-2, 5e-2)}
"""By precision, the largest relative differences of loss, gradient norm and norms of tensors on another topology."""

Number = float | str


@dataclass(frozen=True)
class Compared:
    """One figure.

    Attributes:
        difference: relative to the recorded one; None where either is not finite.
        verdict: "equal" to the bit (or both not finite), "within" the bound, or "differs".
    """

    name: str
    recorded: Number
    replayed: Number
    difference: float | None
    verdict: str

    @classmethod
    def of(cls, name: str, recorded: Number, replayed: Number, bound: float) -> Compared:
        """Compare one figure."""
        if isinstance(recorded, str) or isinstance(replayed, str):
            same = isinstance(recorded, str) and isinstance(replayed, str)
            return cls(name, recorded, replayed, None, "equal" if same else "differs")
        if recorded == replayed:
            return cls(name, recorded, replayed, 0.0, "equal")
        difference = abs(replayed - recorded) / max(abs(recorded), 1e-30)
        return cls(name, recorded, replayed, difference, "within" if difference <= bound else "differs")


@dataclass(frozen=True)
class Comparison:
    """All figures of a step.

    Attributes:
        figures: loss and gradient norm, those that were recorded.
        tensors: in the order of the backward pass, the last layer first.
        exact: whether bits were expected to be equal.
        bounds: of loss, gradient norm and tensors.
    """

    figures: list[Compared]
    tensors: list[Compared]
    exact: bool
    bounds: tuple[float, float, float]

    @property
    def verdict(self) -> str:
        """ "nothing recorded", "equal", "within" or "differs"."""
        verdicts = {each.verdict for each in (*self.figures, *self.tensors)}
        if not verdicts:
            return "nothing recorded"
        return next(word for word in ("differs", "within", "equal") if word in verdicts)

    @property
    def first(self) -> Compared | None:
        """The first tensor of the backward pass whose norm is not as it should be; its layer is nearest to the cause.

        Where bits were expected to be equal, one changed bit counts.
        """
        wrong = ("differs", "within") if self.exact else ("differs",)
        return next((each for each in self.tensors if each.verdict in wrong), None)


def compare(found: dict[str, Any], recorded: Recorded, order: list[str], precision: str, exact: bool) -> Comparison:
    """Compare a step with its record.

    Args:
        found: `loss`, `grad_norm`, `norms`.
        order: logical tensors in the order of the model.
        exact: whether equal bits are expected.
    """
    bounds = BOUNDS[precision]
    pairs = (("loss", recorded.loss, bounds[0]), ("grad_norm", recorded.grad_norm, bounds[1]))
    figures = [Compared.of(name, value, found[name], bound) for name, value, bound in pairs if value is not None]
    place = {name: number for number, name in enumerate(order)}
    both = sorted(recorded.norms.keys() & found["norms"].keys(), key=lambda name: -place.get(name, len(order)))
    tensors = [Compared.of(name, recorded.norms[name], found["norms"][name], bounds[2]) for name in both]
    return Comparison(figures, tensors, exact, bounds)


def first_non_finite(found: dict[str, Any], order: list[str]) -> str | None:
    """The first tensor of the backward pass whose gradient is not finite."""
    place = {name: number for number, name in enumerate(order)}
    broken = [name for name, value in found["norms"].items() if isinstance(value, str)]
    return max(broken, key=lambda name: place.get(name, len(order)), default=None)
