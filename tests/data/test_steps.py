"""Which samples a step reads, against a run that is played sample by sample."""

from __future__ import annotations

import random

import pytest

from megabiomed.data.steps import RunSteps, StepSamples, Stretch
from megabiomed.ground.errors import DataError

# From step 0; a rewind from step 15 to 10; a restart at step 12 with another batch size.
STEPS = RunSteps([Stretch(0, 0, 4, 15), Stretch(10, 60, 4, 13), Stretch(12, 68, 8)])


def test_the_last_attempt_on_a_step_stands() -> None:
    assert STEPS.attempts(10) == [StepSamples(10, 36, 4)]
    assert STEPS.attempts(12) == [StepSamples(12, 44, 4, stands=False), StepSamples(12, 64, 4)]
    assert STEPS.attempts(13) == [
        StepSamples(13, 48, 4, stands=False), StepSamples(13, 68, 4, stands=False), StepSamples(13, 68, 8),
    ]  # fmt: skip
    assert STEPS.attempts(20) == [StepSamples(20, 124, 8)]
    chosen, note = STEPS.choose(12)
    assert chosen.first == 64
    assert "computed 2 times, --attempt chooses: 1: samples 44 to 47 (done again later); 2: samples 64 to 67" in note
    assert STEPS.choose(12, 1)[0].first == 44
    assert STEPS.choose(11 - 1) == (StepSamples(10, 36, 4), "")


def test_the_path_to_an_attempt_is_what_its_weights_learned_from() -> None:
    assert [held.first for held in STEPS.path(STEPS.attempts(13)[-1], 9)] == [36, 60, 64, 68]
    assert [held.first for held in STEPS.path(STEPS.attempts(12)[0], 9)] == [36, 40, 44]


@pytest.mark.parametrize(
    ("step", "attempt", "text"),
    [
        (0, None, "steps count from 1"),
        (2**60, None, "no such step"),
        (12, 3, "expected 1 to 2"),
        (3, None, "after step 5"),
    ],
)
def test_a_step_that_is_none_is_refused(step: int, attempt: int | None, text: str) -> None:
    steps = RunSteps([Stretch(5, 0, 4)]) if step == 3 else STEPS
    with pytest.raises(DataError, match=text):
        steps.choose(step, attempt)


def test_any_history_is_that_of_a_run_played_step_by_step() -> None:
    rng = random.Random(4)
    for _ in range(300):
        stretches: list[Stretch] = []
        standing: dict[int, tuple[int, int]] = {}
        every = set()
        after = sample = rng.choice([0, 0, 7])
        for number in range(rng.randint(1, 5)):
            size, done = rng.choice([2, 3, 4]), rng.randint(0, 6)
            last = after + (done if number else 6)
            stretches.append(Stretch(after, sample, size, last))
            for step in [step for step in standing if step > after]:
                del standing[step]
            for step in range(after + 1, last + 1):
                standing[step] = (sample + (step - after - 1) * size, size)
                every.add((step, *standing[step]))
            end = sample + (last - after) * size
            if rng.random() < 0.5:  # a restart at a checkpoint, or at the beginning
                after = rng.randint(stretches[0].after, last)
                sample = sum(standing[after]) if after in standing else stretches[0].sample
            else:  # a rewind
                after, sample = rng.randint(stretches[0].after, last), end
        steps = RunSteps(stretches)
        for step, held in standing.items():
            last_attempt = steps.attempts(step)[-1]
            assert (last_attempt.first, last_attempt.size, last_attempt.stands) == (*held, True)
        assert {(a.step, a.first, a.size) for s in range(1, 40) for a in steps.attempts(s)} == every
        for wanted in range(60):
            found = {(held.step, held.first, held.size) for held in steps.of_sample(wanted)}
            assert found == {held for held in every if held[1] <= wanted < held[1] + held[2]}
        last_step = max(standing, default=0)
        if last_step:
            path = steps.path(steps.attempts(last_step)[-1], 0)
            assert [(p.first, p.size) for p in path] == [standing[p.step] for p in path]
