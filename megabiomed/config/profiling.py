"""Which steps of a run torch's profiler records."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from megabiomed.config.base import Section

LONGEST_PROFILE = 100
"""Steps. A trace of a step takes tens of megabytes of memory until it is written."""


class ProfileConfig(Section):
    """A window of steps under torch's profiler; it slows these steps down and changes nothing in them."""

    steps: list[PositiveInt] = Field(min_length=2, max_length=2)
    """First and last step, e.g. [100, 105]; a start that begins later profiles nothing."""
    ranks: list[NonNegativeInt] = Field(default_factory=lambda: [0], min_length=1)
    """Ranks that write a trace and tables into profile/ of the run folder."""
    memory: bool = False
    """Record allocations in the trace as well."""

    @model_validator(mode="after")
    def _is_a_window(self) -> ProfileConfig:
        first, last = self.steps
        if not first <= last < first + LONGEST_PROFILE:
            raise ValueError(
                f"profile.steps {self.steps} is not the first and the last of at most {LONGEST_PROFILE} steps; "
                f"set [{first}, {first + 5}], for example"
            )
        return self
