"""Where the time of a rank's steps goes: its own work, standing still in collectives, and waiting for data."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from megabiomed.processes.platform import Mark
from megabiomed.processes.waits import Span, recorded_waits

T = TypeVar("T")


@dataclass(frozen=True)
class Times:
    """Seconds of one step, on average over some.

    Attributes:
        compute: in the step and in no collective that the rank waits for.
        wait: in such collectives: for other ranks, and for what is sent.
        data: until the batch was there.
    """

    compute: float
    wait: float
    data: float

    @property
    def own(self) -> float:
        """For which others wait where it is more than theirs."""
        return self.compute + self.data


class StepTimes:
    """Measures this rank's steps without waiting for the device: a step is looked at when the one behind it is queued."""

    def __init__(self) -> None:
        self._spans: list[Span] | None = None
        self._data = 0.0
        self._newest: tuple[Span, list[Span], float] | None = None
        self._sums, self._steps = [0.0, 0.0, 0.0], 0

    @contextmanager
    def measuring(self, wanted: bool = True) -> Iterator[None]:
        """Steps are measured while the context is open, where that is wanted."""
        if not wanted:
            yield
            return
        with recorded_waits() as self._spans:
            try:
                yield
            finally:
                self._spans = None

    def reading(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches; what each makes the rank wait for it counts."""
        source = iter(batches)
        while True:
            began = time.perf_counter()
            try:
                batch = next(source)
            except StopIteration:
                return
            self._data += time.perf_counter() - began
            yield batch

    @contextmanager
    def step(self) -> Iterator[None]:
        """One step; one that raises does not count."""
        data, self._data = self._data, 0.0
        if self._spans is None:
            yield
            return
        self._spans.clear()
        begin = Mark()
        yield
        waits = list(self._spans)
        self._settle()
        self._newest = ((begin, Mark()), waits, data)

    def window(self) -> Times | None:
        """Of the steps since the last call, which do not hold the newest one yet; None where there are none."""
        if not self._steps:
            return None
        found = Times(*(value / self._steps for value in self._sums))
        self._sums, self._steps = [0.0, 0.0, 0.0], 0
        return found

    def _settle(self) -> None:
        """Count the step before the newest, which the device is through with or nearly so."""
        if self._newest is None:
            return
        (begin, end), waits, data = self._newest
        wait = sum(after.since(before) for before, after in waits)
        # Streams that communicate side by side may together be longer than the step.
        for place, value in enumerate((max(0.0, end.since(begin) - wait), wait, data)):
            self._sums[place] += value
        self._steps += 1
