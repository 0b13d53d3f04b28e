"""Where a run stands, from its own files: without a scheduler, on a narrow terminal, beyond a time limit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megabiomed.ground.errors import LaunchError
from megabiomed.launch import scheduler
from megabiomed.launch.control import cancel, jobs_of, resubmit
from megabiomed.launch.status import COLUMNS, find_runs, lines, row, status_of

JOB = {
    "chain": "c",
    "after": [],
    "job_id": "7",
    "time": "24:00:00",
    "prepared": "2026-01-01T00:00:00+00:00",
    "cluster": {"grace_seconds": 600},
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run at step 500 of 1000 that was preempted once."""
    monkeypatch.setenv("PATH", "")
    folder = submitted(
        tmp_path / "runs" / "lm", "pretrain", [tmp_path / "runs" / "lm", tmp_path / "runs" / "al" / "s1"]
    )
    submitted(tmp_path / "runs" / "al" / "s1", "s1", [folder, tmp_path / "runs" / "al" / "s1"])
    (folder / "events.jsonl").write_text(json.dumps({"event": "resume", "total_steps": 1000}) + "\n")
    metrics = {"step": 500, "train/loss": 2.5, "train/tokens_per_s": 1e5, "train/mfu": 0.4, "train/eta_s": 200000}
    (folder / "metrics.jsonl").write_text(json.dumps(metrics) + "\n{cut off")
    (folder / "checkpoints" / "step_00000480").mkdir(parents=True)
    (folder / "checkpoints" / "step_00000480" / "COMMITTED").touch()
    (folder / "checkpoints" / "step_00000500").mkdir()  # not committed
    history: list[dict[str, Any]] = [
        {"kind": "begin", "incarnation": "7.0.1", "step": 0},
        {"kind": "end", "incarnation": "7.0.1", "decision": "requeue", "reason": "stopped and saved", "after": 480},
        {"kind": "begin", "incarnation": "7.1.2", "step": 480},
    ]
    (folder / "slurm" / "incarnations.jsonl").write_text("".join(json.dumps(item) + "\n" for item in history))
    return folder


def submitted(folder: Path, stage: str, members: list[Path]) -> Path:
    (folder / "slurm").mkdir(parents=True)
    record = JOB | {"stage": stage, "kind": "pretrain", "members": [str(path) for path in members], "controls": []}
    (folder / "slurm" / "job.json").write_text(json.dumps(record))
    return folder


def test_everything_that_a_run_wrote_is_shown_without_a_scheduler(run: Path) -> None:
    found = status_of(run)
    assert found["state"] == "scheduler does not answer"
    assert (found["step"], found["total_steps"], found["incarnations"], found["checkpoint_step"]) == (500, 1000, 2, 480)
    assert found["last"] == "stopped and saved"
    # 200,000 s are left, 85,800 of them fit into one incarnation: two more requeues, each 121 s at least.
    assert found["eta_s"] == 200000 + 2 * 121
    cells = dict(zip(COLUMNS, row(found)))
    assert (cells["step"], cells["loss"], cells["tokens/s"], cells["mfu"]) == (
        "500/1,000",
        "2.5000",
        "100,000",
        "40.0%",
    )
    assert cells["eta"] == "2d 7h"
    assert max(map(len, lines(found))) <= 80


def test_a_finished_run_says_so(run: Path) -> None:
    with (run / "events.jsonl").open("a") as file:
        file.write(json.dumps({"event": "finished", "step": 1000}) + "\n")
    assert (status_of(run)["state"], status_of(run)["eta_s"]) == ("FINISHED", 0.0)


def test_a_chain_is_found_from_each_of_its_stages_and_from_the_folder_of_all_runs(run: Path, tmp_path: Path) -> None:
    stage = tmp_path / "runs" / "al" / "s1"
    assert find_runs(run) == find_runs(stage) == find_runs(tmp_path / "runs") == [run, stage]
    assert jobs_of(tmp_path / "runs" / "al") == [stage]


def test_a_damaged_record_is_named(run: Path) -> None:
    (run / "slurm" / "job.json").write_text('{"chain": "c"')
    with pytest.raises(LaunchError, match=r"slurm/job\.json is damaged: got .*; remove it and submit the run again"):
        find_runs(run)


def test_cancelling_an_alignment_cancels_its_stages(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "job_of", lambda folder, patient=True: {"JobState": "PENDING"})
    called: list[tuple[str, ...]] = []
    monkeypatch.setattr(scheduler, "call", lambda *words, patient=True: called.append(words))
    assert list(cancel(tmp_path / "runs" / "al", save=True, chain=True)) == ["cancelled: job 7 (PENDING)"]
    assert called == [("scancel", "7")]
    assert (tmp_path / "runs" / "al" / "s1" / "control" / "end").exists()


def test_a_run_that_was_moved_after_it_was_submitted_is_shown_and_not_submitted_with_its_old_script(run: Path) -> None:
    job = json.loads((run / "slurm/job.json").read_text())
    (run / "slurm/job.json").write_text(json.dumps(job | {"controls": [str(run)]}))
    moved = run.rename(run.with_name("moved"))
    assert find_runs(moved) == [moved]
    assert status_of(moved)["step"] == 500
    with pytest.raises(
        LaunchError, match=rf"moved was moved after it was submitted: got a script for {run}; .*run_dir={moved}"
    ):
        list(resubmit(moved, "this", dry_run=True))


@pytest.mark.parametrize(
    "text", ["[]", "7", "{}", '{"members": [1]}', '{"members": {}}', "[" * 9999, '{"time": 3}', "\ufeff{}"]
)
def test_a_damaged_record_of_a_submission_is_named(run: Path, text: str) -> None:
    (run / "slurm/job.json").write_text(text)
    with pytest.raises(LaunchError, match=r"job\.json is damaged|was not submitted"):
        list(cancel(run, save=False, chain=True))


def test_damaged_metrics_and_events_leave_cells_empty(run: Path) -> None:
    (run / "metrics.jsonl").write_text('{"train/loss": "x", "step": "9", "train/eta_s": [], "train/mfu": 1e999}\n')
    (run / "events.jsonl").write_text('[]\n7\n{"event": "resume", "total_steps": "many"}\n')
    (run / "slurm/incarnations.jsonl").write_text('[]\n{"kind": 3}\n')
    assert "-" in row(status_of(run))
    assert lines(status_of(run))


def test_slow_ranks_are_shown_with_their_nodes_until_they_recover_or_the_start_is_over(run: Path) -> None:
    slow = [{"event": "slow_rank", "rank": n, "host": f"n{n}", "factor": 1.82, "lost": 0.4, "step": 30} for n in (3, 5)]
    events = run / "events.jsonl"
    events.write_text(
        "".join(json.dumps(event) + "\n" for event in [{"event": "resume", "step": 480}, *slow, {"rank": 5}])
    )
    assert dict(zip(COLUMNS, row(status_of(run))))["last"] == (
        "slow: rank 3 on n3 1.82 x, rank 5 on n5 1.82 x; stopped and saved"
    )
    assert [(found["rank"], found["host"], found["lost"]) for found in status_of(run)["slow"]] == [
        (3, "n3", 0.4), (5, "n5", 0.4)
    ]  # fmt: skip
    for more, left in (({"event": "slow_rank_over", "rank": 3}, ["n5"]), ({"event": "resume", "step": 500}, [])):
        with events.open("a") as file:
            file.write(json.dumps(more) + "\n")
        assert [found["host"] for found in status_of(run)["slow"]] == left
