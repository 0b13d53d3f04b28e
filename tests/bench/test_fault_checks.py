"""The checks of `make bench-campaign` on a run that is sound, and on the same run with one thing broken on purpose."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.fault_checks import complaints, doubled, unexplained
from bench.goodput_figures import by_kind, goodput, plan

EXPECTED = {step: 2.0 - step / 100 for step in range(1, 9)}
HASHES = {step: f"{step:032x}" for step in EXPECTED}
Events = list[dict[str, Any]]


def written(run: Path, change: Callable[[Events, Events], object] | None = None) -> Path:
    """A run of eight steps that was killed after step 5, and went on from the save of step 4."""
    events: Events = [
        {"event": "start", "step": 0, "claim": 1},
        {"event": "save", "step": 4, "claim": 1},
        {"event": "resume", "step": 4, "claim": 2},
        {"event": "save", "step": 8, "claim": 2},
        {"event": "finished", "step": 8, "claim": 2, "ids_hash": HASHES[8]},
    ]
    metrics: Events = [{"step": step, "train/loss": EXPECTED[step]} for step in (1, 2, 3, 4, 5, 5, 6, 7, 8)]
    if change is not None:
        change(events, metrics)
    for name, records in {"events": events, "metrics": metrics}.items():
        (run / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    for step in (4, 8):
        folder = run / "checkpoints" / f"step_{step:08d}"
        folder.mkdir(parents=True)
        (folder / "COMMITTED").touch()
        (folder / "trainer.json").write_text(json.dumps({"data": {"ids_hash": HASHES[step]}}))
    return run


def test_nothing_is_said_of_a_run_that_was_killed_and_went_on_from_its_last_save(tmp_path: Path) -> None:
    assert complaints(written(tmp_path), EXPECTED, HASHES, committed=4) == []


BROKEN: dict[str, Callable[[Events, Events], object]] = {
    "began at step 2, although step 4 was saved": lambda events, metrics: events[2].update(step=2),
    "step 6 was saved by a start that had lost the run": lambda events, metrics: events.insert(
        4, {"event": "save", "step": 6, "claim": 1}
    ),
    "step 5 follows step 3": lambda events, metrics: metrics.pop(3),
    "step 7 follows step 7": lambda events, metrics: metrics.insert(8, metrics[7]),
    "step 6 has loss 3.0, not 1.94": lambda events, metrics: metrics[6].update({"train/loss": 3.0}),
    "step 5 has loss nan, not 1.95": lambda events, metrics: metrics[4].update({"train/loss": "nan"}),
    "finished at step 8 with other samples": lambda events, metrics: events[-1].update(ids_hash="0" * 32),
}


@pytest.mark.parametrize("said", BROKEN)
def test_what_is_broken_in_a_run_is_said(tmp_path: Path, said: str) -> None:
    found = complaints(written(tmp_path, BROKEN[said]), EXPECTED, HASHES)
    assert [line for line in found if said in line], found


def test_a_checkpoint_with_other_samples_and_a_save_that_only_the_campaign_saw_are_noticed(tmp_path: Path) -> None:
    run = written(tmp_path)
    (run / "checkpoints" / "step_00000008" / "trainer.json").write_text(json.dumps({"data": {"ids_hash": "f" * 32}}))
    (found,) = complaints(run, EXPECTED, HASHES)
    assert "the checkpoint of step 8 has read other samples" in found
    assert "step 4, although step 5 was saved" in complaints(run, EXPECTED, HASHES, committed=5)[0]


def test_losses_may_differ_by_rounding_after_a_change_of_topology_and_not_before(tmp_path: Path) -> None:
    def shrunk(events: Events, metrics: Events) -> None:
        events[2]["changed"] = ["ranks: 4 -> 2"]
        metrics[7]["train/loss"] += 9e-6
        metrics[1]["train/loss"] += 9e-6

    (found,) = complaints(written(tmp_path, shrunk), EXPECTED, HASHES)
    assert "step 2 has loss" in found


def test_two_live_jobs_of_a_run_are_noticed_by_every_path_to_it(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    rows = [
        f"7|RUNNING|None|n1|{tmp_path}/disk/run/slurm/job.sh",
        f"8|PENDING|Resources||{tmp_path}/link/run/slurm/job.sh",
    ]
    (found,) = doubled("\n".join(rows))
    assert found.startswith("2 live jobs of ")
    assert doubled("\n".join(rows).replace("RUNNING", "CANCELLED")) == []


@pytest.mark.parametrize(
    ("row", "explained"),
    [
        ({"state": "RUNNING"}, True),
        ({"state": "FINISHED"}, True),
        ({"state": "PENDING", "reason": "Resources"}, True),
        ({"state": "PENDING", "blocked": "paused: megabiomed release RUN"}, True),
        ({"state": "PENDING", "last": "stopped and saved"}, False),
        ({"state": "FAILED", "last": "failure 3 of 3"}, True),
        ({"state": "FAILED"}, False),
        ({"state": "not in the queue"}, False),
    ],
)
def test_a_run_that_waits_without_a_reason_is_noticed(row: dict[str, Any], explained: bool) -> None:
    assert (unexplained({"run": "r", **row}) == []) == explained


def test_goodput_counts_a_step_once_however_often_it_was_computed() -> None:
    metrics = [{"step": step, "train/step_s": 2.0} for step in (1, 2, 3, 2, 3, 4)]
    found = goodput(metrics, imports=[5.0], wall_s=21.0)
    assert (found["useful_step_s"], found["goodput"], found["goodput_with_imports"]) == (8.0, 0.5, 0.381)
    assert (found["steps"], found["steps_done_again"]) == (4, 2)


def test_each_kind_of_fault_is_drawn_at_least_once_and_a_seed_draws_the_same_again() -> None:
    kinds = ["a", "b", "c"]
    assert {*plan(kinds, 5, 0)} == {*kinds}
    assert plan(kinds, 9, 1) == plan(kinds, 9, 1) != plan(kinds, 9, 2)
    faults = [
        {"fault": "a", "recovery_s": took, "imports_s": 1.0, "steps_lost": took, "steps_at_risk": 9} for took in (2, 4)
    ]
    (row,) = by_kind(faults)
    assert (row["count"], row["recovery_s mean"], row["recovery_s worst"], row["steps lost"]) == (2, 3.0, 4, "2, 4")
