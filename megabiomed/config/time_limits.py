"""How long a run waits before it gives up: every limit, from the configuration and from the measured time of a step.

The order is that of docs/operators.md: the hang guard speaks first, because it alone knows where every rank stands; torch's
collectives give up after it, in case the guard's own thread cannot speak; the scheduler's time limit comes last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

MARGIN_S = 30.0
"""Least time from the guard to the collectives: it looks every second, and asks torch's recorder and waits 5 s each."""
SHORTEST_S, LONGEST_S = 600.0, 1800.0
"""Bounds of the guard's derived limit. Storage that stalls for some minutes is no hang; a page after hours helps nobody."""
_STEPS = 20
_LEAST_STEPS = 3
_PATIENT_S = 24 * 3600.0


class Settings(Protocol):
    """The keys of `train` that limits depend on."""

    @property
    def hang_timeout_s(self) -> float | None: ...
    @property
    def hang_start_timeout_s(self) -> float: ...
    @property
    def collective_timeout_s(self) -> float | None: ...


@dataclass(frozen=True)
class TimeLimits:
    """Limits in seconds; each is longer than the one before it.

    Attributes:
        guard_s: the hang guard's limit between two beats, once the first step is done; 0 where it is switched off.
        collective_s: torch's limit for a collective, once steps are measured.
        start_guard_s: the guard's limit until then, and for phases that read or write the whole model.
        start_collective_s: torch's limit until then.
        patient_s: torch's limit in groups whose ranks wait on purpose (a save, encoder ranks beside an evaluation).
    """

    guard_s: float
    collective_s: float
    start_guard_s: float
    start_collective_s: float
    patient_s: float


def time_limits(settings: Settings, slowest_s: float | None = None) -> TimeLimits:
    """The limits of a run.

    Args:
        slowest_s: the slowest of the first steps on any rank, the very first left out; None before they are measured.
    """
    derived = _derived(slowest_s)
    guard = derived if settings.hang_timeout_s is None else settings.hang_timeout_s
    after = _after(guard or derived)
    if settings.collective_timeout_s is not None:
        # Steps that take longer than anybody expected move both limits, and never the order.
        after = max(settings.collective_timeout_s, least_collective_s(guard))
    start = max(settings.hang_start_timeout_s, guard)
    start_after = max(_after(start), after)
    return TimeLimits(guard, after, start, start_after, max(_PATIENT_S, 2 * start_after))


def least_collective_s(hang_timeout_s: float | None) -> float:
    """The shortest `train.collective_timeout_s` that leaves the guard the first word; 0 where there is no guard."""
    guard = LONGEST_S if hang_timeout_s is None else hang_timeout_s
    return guard + MARGIN_S if guard else 0.0


def _derived(slowest_s: float | None) -> float:
    if slowest_s is None:
        return LONGEST_S
    return max(min(max(_STEPS * slowest_s, SHORTEST_S), LONGEST_S), _LEAST_STEPS * slowest_s)


def _after(guard_s: float) -> float:
    return guard_s + max(MARGIN_S, guard_s / 5)
