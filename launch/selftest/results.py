"""What a check found: its outcome, its figures, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

PASSED = "passed"
FAILED = "failed"
SKIPPED = "skipped"


@dataclass(frozen=True)
class Figure:
    """One measured value with its unit."""

    name: str
    value: float
    unit: str

    def __str__(self) -> str:
        return f"{self.name} {self.value:.4g} {self.unit}".rstrip()


@dataclass(frozen=True)
class Result:
    """The outcome of one check.

    Attributes:
        name: that of the check in the plan.
        status: passed, failed or skipped.
        reason: why it failed or was skipped; empty when it passed.
    """

    name: str
    status: str
    reason: str = ""
    figures: Sequence[Figure] = ()

    @classmethod
    def of(cls, name: str, problem: str | None, figures: Sequence[Figure] = ()) -> Result:
        """Passed without a problem, failed with one."""
        return cls(name, FAILED if problem else PASSED, problem or "", figures)

    @classmethod
    def skip(cls, name: str, reason: str) -> Result:
        """A check that could not be done here."""
        return cls(name, SKIPPED, reason)

    def values(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)
