"""What `make bench-health` counts: events at their steps, samples that a run passes over, and rows of its tables."""

from __future__ import annotations

import random
from pathlib import Path

import torch

from bench.health_bits import flip
from bench.health_groups import KINDS, Asked
from bench.health_plan import Plan, spaced
from bench.health_tables import NAMES, alarms, detections, policies
from bench.health_worker import INJECTIONS, _past


def test_events_are_spread_over_the_run_and_never_in_two_steps_in_a_row() -> None:
    at = spaced(500, 4, random.Random(1), first=10)
    assert len(at) == 500
    assert all(10 + 4 * number < step < 14 + 4 * number for number, step in enumerate(at))
    assert min(later - before for before, later in zip(at, at[1:])) == 2


def test_a_run_reads_what_another_one_read_without_what_that_one_passed_over() -> None:
    passed = ((8, 8), (32, 24))
    read = [sample for sample in range(0, 96, 8) if sample not in (8, 32, 40, 48)]
    assert [_past(passed, sample) for sample in range(0, 8 * len(read), 8)] == read


def test_a_flip_changes_one_bit() -> None:
    tensor = torch.ones(7)
    before = tensor.clone().view(torch.int32)
    flip(tensor, random.Random(3))
    (changed,) = (before ^ tensor.view(torch.int32)).nonzero()
    assert int((before ^ tensor.view(torch.int32))[changed]).bit_count() == 1


def test_a_plan_is_the_same_on_every_rank(tmp_path: Path) -> None:
    plan = Plan("nan", "tp2", "corpus", str(tmp_path), 1, 9, (3, 5), {"train": {"log_every": 1}}, ((8, 8),), {"a": 1.0})
    plan.write(tmp_path / "plan.json")
    read = Plan.read(tmp_path / "plan.json")
    assert read == plan
    assert read.dice(3).random() == plan.dice(3).random() != plan.dice(5).random()
    assert read.config().train.log_every == 1


def test_all_events_that_were_asked_for_are_injected_and_every_kind_has_a_name(tmp_path: Path) -> None:
    assert {*NAMES} >= {*INJECTIONS} >= {*KINDS} - {"clean"}
    for kind in {*KINDS} - {"clean"}:
        groups = KINDS[kind](kind, Asked(200, 0, 1.0, tmp_path))
        first = groups[0].policy
        assert sum(group.events for group in groups if group.policy == first) == 200
        assert len({group.name for group in groups}) == len(groups)


def test_what_was_missed_is_in_the_tables() -> None:
    cost = {"lost_steps": 1.0, "lost_s": 0.1, "step_s": 0.1, "exact": False}
    found = {
        "kind": "nan",
        "engine": "zero1",
        "policy": "skip",
        "events": 9,
        "found": 8,
        "alarms": 1,
        "steps": 50,
        **cost,
    }
    quiet = {"kind": "clean", "engine": "zero1", "policy": "", "steps": 100, "alarms": 2, "step_s": 0.1}
    results = {"a": found, "b": quiet}
    (row,) = detections(results)
    assert (row["missed"], row["false alarms"], row["exact"]) == (1, 1, "NO")
    assert [row["steps lost for each"] for row in policies(results)] == [1.0]
    assert [row["alarms"] for row in alarms(results)] == [2]
