"""The lost step time of a save, with a clock that only the steps and the save move."""

from __future__ import annotations

import pytest

from bench import lost_time
from bench.lost_time import AFTER, Saving, lost_step_time


class Training:
    """Steps of one second; a save pauses for two and makes the three steps after it slower by half."""

    def __init__(self) -> None:
        self.now, self.slow = 0.0, 0

    def step(self) -> None:
        self.now += 1.5 if self.slow else 1.0
        self.slow = max(0, self.slow - 1)

    def save(self, number: int) -> Saving:
        self.now += 2.0 if number == 1 else 0.5
        self.slow = 3
        return Saving(lambda: None, lambda: self.slow == 0)


def test_lost_is_the_pause_and_what_the_steps_after_it_take_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training()
    monkeypatch.setattr(lost_time.time, "perf_counter", lambda: training.now)
    monkeypatch.setattr(lost_time, "_everywhere", lambda done: done)
    found = lost_step_time(training.step, training.save, saves=2)
    assert found["median_step_s"] == 1.0
    assert (found["first_pause_s"], found["later_pause_s"]) == (2.0, 0.5)
    assert (found["first_lost_s"], found["later_lost_s"]) == (2.0 + 1.5, 0.5 + 1.5)
    assert found["first_lost_until_committed_s"] == 3.5
    assert found["first_steps_until_committed"] == 3
    assert found["first_slowest_step"] == 1.5
    assert found["share"] == 3.5 / 500


def test_steps_go_on_until_the_files_are_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    training, steps = Training(), []
    monkeypatch.setattr(lost_time.time, "perf_counter", lambda: training.now)
    monkeypatch.setattr(lost_time, "_everywhere", lambda done: done)

    def step() -> None:
        steps.append(1)
        training.step()

    before = 3 + 15
    found = lost_step_time(step, lambda number: Saving(lambda: None, lambda: len(steps) >= before + AFTER + 7), saves=1)
    assert found["first_steps_until_committed"] == AFTER + 7
