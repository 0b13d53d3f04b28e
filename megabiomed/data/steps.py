"""Which samples each step of a run reads: through restarts, rewinds, and changes of the batch size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from megabiomed.ground.errors import DataError

_LARGEST = 2**48  # so that the numbers of its samples are whole numbers of 64 bits


@dataclass(frozen=True)
class StepSamples:
    """The global samples of one step.

    Attributes:
        step: optimizer step, from 1.
        first: global number of its first sample.
        size: number of samples.
        stands: False where the run went back behind this step afterwards, and computed a step of that number anew.
    """

    step: int
    first: int
    size: int
    stands: bool = True

    @property
    def end(self) -> int:
        """Global number behind the last sample."""
        return self.first + self.size


@dataclass(frozen=True)
class Stretch:
    """Steps that follow one another without a restart or a rewind between them.

    Attributes:
        after: number of the step before the first one.
        sample: global number of the first sample.
        size: samples of each step.
        last: the last step that is known to have been computed; None: the stretch goes on.
    """

    after: int
    sample: int
    size: int
    last: int | None = None

    def holds(self, step: int) -> bool:
        """Whether a step is a part of it."""
        return self.after < step and (self.last is None or step <= self.last)

    def first(self, step: int) -> int:
        """Global number of the first sample of a step."""
        return self.sample + (step - 1 - self.after) * self.size


class RunSteps:
    """All steps of a run, also those that it computed more than once.

    Args:
        stretches: in the order in which they were computed; the last one goes on.
    """

    def __init__(self, stretches: Sequence[Stretch]) -> None:
        assert stretches
        self.stretches = list(stretches)

    @property
    def begins_after(self) -> int:
        """Number of the step before the first one that this run computed."""
        return min(stretch.after for stretch in self.stretches)

    def attempts(self, step: int) -> list[StepSamples]:
        """The times that a step was computed, or will be, the oldest first; the last one stands.

        Attempts on the same samples count once. Empty for a step before the run's first one.
        """
        found: dict[tuple[int, int], StepSamples] = {}
        for number, stretch in enumerate(self.stretches):
            if stretch.holds(step):
                samples = StepSamples(step, stretch.first(step), stretch.size, self._stands(number, step))
                found.pop((samples.first, samples.size), None)
                found[samples.first, samples.size] = samples
        return list(found.values())

    def choose(self, step: int, attempt: int | None = None) -> tuple[StepSamples, str]:
        """One attempt, and a line that names them all where there are several.

        Args:
            attempt: its number, from 1; None: the last one, which stands.

        Raises:
            DataError: there is no such step or attempt.
        """
        if step < 1 or step > _LARGEST:
            raise DataError("a run has no such step", got=step, do="steps count from 1")
        found = self.attempts(step)
        if not found:
            raise DataError(
                f"step {step} was not computed by this run", got=f"it begins after step {self.begins_after} of another run",
                do="name the folder of that run",
            )  # fmt: skip
        if attempt is not None and not 1 <= attempt <= len(found):
            raise DataError(f"step {step} has no such attempt", got=attempt, expected=f"1 to {len(found)}")
        chosen = found[(attempt or len(found)) - 1]
        named = [
            f"{number}: samples {each.first} to {each.end - 1}{'' if each.stands else ' (done again later)'}"
            for number, each in enumerate(found, 1)
        ]
        note = f"step {step} was computed {len(found)} times, --attempt chooses: {'; '.join(named)}"
        return chosen, note if len(found) > 1 else ""

    def path(self, attempt: StepSamples, after: int) -> list[StepSamples]:
        """The steps after step `after` up to an attempt, as the weights of this attempt came to be. Its own is the last.

        A checkpoint of step `after` lies on that path only if its next sample is the first one of the path.
        """
        number = max(
            number for number, stretch in enumerate(self.stretches)
            if stretch.holds(attempt.step) and (stretch.first(attempt.step), stretch.size) == (attempt.first, attempt.size)
        )  # fmt: skip
        return [self._at(step, number) for step in range(max(after, self.begins_after) + 1, attempt.step + 1)]

    def of_sample(self, sample: int) -> Iterator[StepSamples]:
        """The steps that read a sample or will, by number; none where the run begins behind it or passes over it."""
        found: dict[tuple[int, int, int], StepSamples] = {}
        for stretch in self.stretches:
            if sample >= stretch.sample:
                step = stretch.after + 1 + (sample - stretch.sample) // stretch.size
                found |= {(held.step, held.first, held.size): held for held in self.attempts(step)}
        yield from (held for _, held in sorted(found.items()) if held.first <= sample < held.end)

    def _stands(self, number: int, step: int) -> bool:
        """Whether no later stretch begins before a step of this one."""
        return all(later.after >= step for later in self.stretches[number + 1 :])

    def _at(self, step: int, number: int) -> StepSamples:
        """A step as it was before the stretches behind `number`."""
        found = next(each for each in range(number, -1, -1) if self.stretches[each].after < step)
        held = self.stretches[found]
        return StepSamples(step, held.first(step), held.size, self._stands(found, step))
