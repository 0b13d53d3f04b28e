"""The lost step time of a save, with a clock that only the steps and the save move."""

from __future__ import annotations

import pytest

from bench import lost_time
from bench.bench_checkpoint import row
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


def test_the_table_of_saves_shows_the_lost_time_as_a_share_of_an_interval() -> None:
    figures = dict.fromkeys(
        ("pause_s", "memcpy_s", "first_pause_s", "commit_s", "load_s", "save_peak_mib", "load_peak_mib", "files_mib"),
        1.0,
    )
    lost = {
        "median_step_s": 0.5,
        "first_lost_s": 3.0,
        "later_lost_s": 2.0,
        "share": 3.0 / 250,
        "first_slowest_step": 1.2,
    }
    lost |= {"later_slowest_step": 1.1, "later_steps_until_committed": 4.0, "first_save_peak_mib": 300.0}
    found = row("megabiomed, ZeRO-3", figures | lost, {"megabiomed, ZeRO-3": figures})
    assert found["lost s, first / later"] == "3.00 / 2.00"
    assert found["lost, of 500 steps"] == "1.20%"
    assert found["slowest step / median"] == 1.2
    assert found["save peak MiB"] == 300
