"""The bars of a build: how far the whole of it is, and how long it will take, from what each step costs."""

from __future__ import annotations

import pytest
from rich.progress import Progress

from megabiomed.corpus import build_bars
from megabiomed.corpus.build_bars import BuildBars, LeftColumn, step_costs

COSTS = {"clean": 6.0, "tokenize": 3.0, "hash": 1.0}


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the bars see."""
    time = [0.0]
    monkeypatch.setattr(build_bars.time, "monotonic", lambda: time[0])
    return time


def whole(progress: Progress) -> tuple[float, str]:
    """Thousandths of the build that are done, and the time that is left, as it is shown."""
    task = progress.tasks[0]
    return task.completed, LeftColumn().render(task).plain


def test_the_time_left_is_that_of_all_steps_by_their_costs(now: list[float]) -> None:
    bars = BuildBars(progress := Progress(disable=True), COSTS)
    assert whole(progress) == (0, "-:--:--")
    clean = bars.step("clean", [100, 100], "papers")
    assert clean is not None
    now[0] = 3.0
    clean(0, 5, 100)  # half of the bytes, though no job has ended
    assert whole(progress) == (300, "0:00:07")
    now[0] = 6.0
    clean(2, 10, 190)
    tokenize = bars.step("tokenize", [50, 50, 50], "tokens")
    assert tokenize is not None
    tokenize(1, 9, 50)
    assert whole(progress) == (700, "0:00:03")


def test_work_of_an_earlier_command_counts_as_done_and_not_as_speed(now: list[float]) -> None:
    bars = BuildBars(progress := Progress(disable=True), COSTS)
    clean = bars.step("clean", [100, 100], "papers", [True, False])
    assert clean is not None
    assert whole(progress) == (300, "-:--:--")
    now[0] = 4.0
    clean(1, 1, 50)
    assert whole(progress) == (450, "0:00:15")  # 1.5 of 10 took 4 seconds
    clean(2, 1, 100)
    tokenize = bars.step("tokenize", [10], "tokens", [True])
    assert tokenize is not None
    tokenize(1, 0, 0)
    assert whole(progress) == (900, "0:00:01")


def test_a_step_that_was_left_out_is_over_when_a_later_one_begins(now: list[float]) -> None:
    bars = BuildBars(progress := Progress(disable=True), step_costs(2, near=True, trains=True))
    now[0] = 1.0
    bars.step("hash", [1], "files")
    assert whole(progress)[0] > 990


def test_without_a_terminal_nothing_is_shown() -> None:
    bars = BuildBars(None, COSTS)
    assert bars.step("clean", [1], "papers") is None
    bars.alone("tokenize")()
