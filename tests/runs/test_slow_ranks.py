"""A rank that holds the others up is named with its node; ranks with other work are not, and neither is a moment's pause."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from runs.slow_ranks_worker import CLEAN, WINDOW
from support.hooks import training
from support.spawn import run_ranks

from megabiomed.runs.hooks.slow_ranks import SlowRanks
from megabiomed.runs.slow_ranks import Peer, Watch
from megabiomed.runs.step_times import StepTimes, Times

WORKER = str(Path(__file__).with_name("slow_ranks_worker.py"))
STAGES = [Peer(0, "n0", "stage 0"), Peer(1, "n0", "stage 0"), Peer(2, "n1", "stage 1"), Peer(3, "n1", "stage 1")]
EVEN = [Times(1.0, 1.1, 0.0), Times(1.05, 1.05, 0.0), Times(2.0, 0.1, 0.0), Times(2.0, 0.1, 0.0)]


def judged(*windows: list[Times], peers: list[Peer] = STAGES, share: float = 0.1) -> list[list[str]]:
    watch = Watch(peers, share, 3)
    return [[f"{slow.peer.rank} {slow.peer.host} {slow.part}" for slow in watch.judge(times)] for times in windows]


@pytest.mark.timeout(240)
def test_a_busy_rank_of_real_processes_is_named_and_none_before_it_is_busy(tmp_path: Path) -> None:
    run_ranks(4, [WORKER, str(tmp_path), "3"], tmp_path / "logs", timeout_s=200)
    told = json.loads((tmp_path / "told_0.json").read_text())
    found = [dict(values) for kind, name, *values in told if kind == "event" and name == "slow_rank"]
    assert [(event["rank"], event["host"], event["work"], event["part"]) for event in found] == [
        (3, socket.gethostname(), "stage 1", "compute")
    ]
    assert found[0]["step"] > CLEAN
    assert found[0]["factor"] > 1.3
    assert found[0]["lost"] > 0.3
    remarks = [text for kind, text, *_ in told if kind == "remark"]
    assert remarks
    assert all(f"rank 3 on {socket.gethostname()} takes " in text for text in remarks)
    assert all(json.loads((tmp_path / f"told_{rank}.json").read_text()) == [] for rank in (1, 2, 3))
    held = json.loads((tmp_path / "ranks.json").read_text())
    assert held["step"] % WINDOW == 0
    assert [(row["rank"], row["work"], row["slow"]) for row in held["ranks"]] == [
        (0, "stage 0", False), (1, "stage 0", False), (2, "stage 1", False), (3, "stage 1", True),
    ]  # fmt: skip
    # The others stand still for the time that the slow one works longer.
    assert held["ranks"][2]["wait_s"] > held["ranks"][3]["wait_s"]


def test_ranks_are_compared_with_those_that_have_the_same_work() -> None:
    assert judged(EVEN, EVEN, EVEN, EVEN) == [[], [], [], []]
    slow = [Times(1.0, 2.1, 0.0), Times(1.9, 1.2, 0.0), *[Times(2.0, 1.1, 0.0)] * 2]
    assert judged(slow, slow, slow, EVEN) == [[], [], ["1 n0 compute"], []]


@pytest.mark.parametrize(
    ("case", "slow", "peers"),
    [
        ("slow in every other window", None, STAGES),
        ("5 ms of a short step", Times(0.0145, 0.0, 0.0), STAGES),
        ("alone with its work", Times(9.0, 0.0, 0.0), [Peer(n, "n", f"stage {n}") for n in range(4)]),
    ],
)
def test_what_is_no_slow_rank(case: str, slow: Times | None, peers: list[Peer]) -> None:
    quick = Times(0.01, 0.0045, 0.0)
    windows = [[EVEN[0], Times(3.0, 0.0, 0.0), *EVEN[2:]], EVEN] * 4 if slow is None else [[slow, *[quick] * 3]] * 6
    assert not any(judged(*windows, peers=peers))


def test_a_rank_whose_data_come_late_is_slow_in_its_data() -> None:
    late = [Times(1.0, 0.0, 1.0), *[Times(1.0, 1.0, 0.0)] * 3]
    assert judged(late, late, late, peers=[Peer(n, "n", "stage 0") for n in range(4)])[-1] == ["0 n data"]


def test_the_worst_of_several_comes_first_and_one_that_recovers_is_told(tmp_path: Path, monkeypatch: Any) -> None:
    hook, run = SlowRanks(), training(3, tmp_path, times=SimpleNamespace(window=lambda: EVEN[0]))
    hook._watch = Watch([Peer(n, f"n{n}", "stage 0") for n in range(4)], 0.1, 1)
    slow = [Times(1.6, 0.4, 0.0), Times(2.0, 0.0, 0.0), *[Times(1.0, 1.0, 0.0)] * 2]
    for number, times in enumerate((slow, slow, EVEN[:1] * 4), 1):
        monkeypatch.setattr("megabiomed.runs.hooks.slow_ranks._gathered", lambda mine, times=times: times)
        hook.after_step(run, SimpleNamespace(number=10 * number))  # type: ignore[arg-type]
    told = run.reporter
    events = [(name, dict(values)["rank"], dict(values)["step"]) for kind, name, *values in told if kind == "event"]
    assert events == [("slow_rank", 1, 10), ("slow_rank", 0, 10), ("slow_rank_over", 0, 30), ("slow_rank_over", 1, 30)]
    remarks = [text for kind, text, *_ in told if kind == "remark"]
    said = "slow: rank 1 on n1 takes 2 x as long as its peers (compute), 50% of each step is lost and 1 more"
    assert remarks == [said, said]
    assert [figures["ranks/slow"] for kind, figures, *_ in told if kind == "add"] == [2.0, 2.0, 0.0]


def test_times_of_a_step_count_when_the_next_one_is_queued() -> None:
    times = StepTimes()
    with times.measuring():
        for expected in (0, 1, 1):
            with times.step():
                pass
            window = times.window()
            assert (window is not None) == bool(expected)
    with times.measuring(wanted=False), times.step():
        pass
    assert list(times.reading(iter("ab"))) == ["a", "b"]
