"""Where a run stands, from its own files: without a scheduler, on a narrow terminal, beyond a time limit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.scheduling import program

from megabiomed.ground.errors import LaunchError
from megabiomed.launch import scheduler
from megabiomed.launch.control import cancel, jobs_of, resubmit
from megabiomed.launch.status import find_runs, status_of, statuses
from megabiomed.launch.status_table import COLUMNS, Group, belongs, first_clause, lines, row

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
    assert (found["step"], found["total_steps"], found["starts"], found["checkpoint_step"]) == (500, 1000, 2, 480)
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


def test_one_call_of_the_controller_and_one_of_its_accounting_are_enough_for_a_table_of_any_length(
    run: Path, tools: Path, tmp_path: Path
) -> None:
    """Jobs of other scripts under the same number are nobody's; components of one job are one."""
    runs = [run, *(submitted(tmp_path / f"runs/r{n}", f"s{n}", []) for n in range(8, 40))]
    for folder in runs[1:]:
        job = json.loads((folder / "slurm/job.json").read_text()) | {"job_id": folder.name[1:]}
        (folder / "slurm/job.json").write_text(json.dumps(job))
    (runs[-1] / "slurm/job.json").write_text(json.dumps(job | {"job_id": None}))  # its submission was cut off
    script = "Command={}/slurm/job.sh"
    queued = [
        "JobId=7+0|JobState=RUNNING|Reason=None|NodeList=n1|RunTime=1:02|TimeLimit=10:00|" + script.format(run),
        "JobId=7+1|JobState=RUNNING|Reason=None|NodeList=n[2-3]|" + script.format(run),
        "JobId=8|JobState=PENDING|Reason=Job's account not permitted|ExcNodeList=n3|" + script.format(runs[1]),
        "JobId=9|JobState=RUNNING|Reason=None|" + script.format("/somebody/elses"),
        "JobId=99|JobState=PENDING|Reason=Priority|" + script.format(runs[-1]),
    ]
    program(tools, "squeue", f"echo x >> {tmp_path}/asked\n" + "\n".join(f'echo "{line}"' for line in queued))
    program(tools, "scontrol", f"echo x >> {tmp_path}/asked")
    past = [
        "9|c-s9|REQUEUED|0|1|1|0:0|n1|None",
        "9|c-s9|CANCELLED by 1000|1|2|1|0:0|n2|DependencyNeverSatisfied",
        "10|other|FAILED|1|2|1|1:0|n2|None",
    ]
    program(
        tools, "sacct",
        f'echo x >> {tmp_path}/accounted\ncase "$*" in *,Reason*) echo "error: Invalid field requested" >&2; exit 1;; esac\n'
        + "\n".join(f'echo "{line.rpartition("|")[0]}"' for line in past),
    )  # fmt: skip
    found = statuses(runs)
    assert [(item["state"], item["nodes"], item["job"]) for item in found[:4]] == [
        ("RUNNING", "n1,n[2-3]", "7"), ("PENDING", None, "8"), ("CANCELLED", None, "9"), ("not in the queue", None, "10"),
    ]  # fmt: skip
    assert (found[0]["elapsed"], found[0]["limit"], found[1]["excluded"]) == ("1:02", "10:00", "n3")
    assert "account" in found[1]["blocked"]
    assert [start["State"] for start in found[2]["accounting"]] == ["REQUEUED", "CANCELLED by 1000"]
    assert (found[-1]["job"], found[-1]["reason"]) == ("99", "Priority")
    assert (tmp_path / "asked").read_text() == "x\n"
    assert (tmp_path / "accounted").read_text() == "x\nx\n"  # without a field that this version does not know
    program(tools, "sacct", "\n".join(f'echo "{line}"' for line in past))
    assert statuses(runs)[2]["state"] == "CANCELLED (DependencyNeverSatisfied)"
    assert [sum(belongs(item, group) for item in found) for group in Group] == [1, 2, 30, 30]


def test_a_job_whose_script_was_killed_says_what_to_type(run: Path, tools: Path) -> None:
    line = f"JobId=7|JobState={{}}|Reason=JobLaunchFailure|Command={run}/slurm/job.sh"
    program(tools, "squeue", f'echo "{line.format("FAILED")}"')
    assert status_of(run)["blocked"] == f"its batch script was killed before it could decide: megabiomed resubmit {run}"
    assert row(status_of(run))[-1].startswith("its batch script was killed")
    program(tools, "squeue", f'echo "{line.format("RUNNING")}"')
    assert status_of(run)["blocked"] is None
    program(tools, "squeue", f'echo "{line.format("FAILED")}"')
    with (run / "slurm/incarnations.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "end", "incarnation": "7.1.2", "decision": "fail", "reason": "x"}) + "\n")
    assert status_of(run)["blocked"] is None


@pytest.mark.parametrize("width", [80, 120])
def test_a_long_reason_is_cut_at_a_clause_and_says_where_to_read_on(run: Path, width: int) -> None:
    failure = (
        "failure 2 of 3 without progress, exit code 143, step 480: rank 12 on node017 failed first: Killed (SIGKILL)"
    )
    history = (run / "slurm/incarnations.jsonl").read_text().splitlines()
    ended = {"kind": "end", "incarnation": "7.0.1", "before": 480, "after": 480, "time": "2026-01-01T00:00:00+00:00"}
    reasons = {
        f"{failure}; its last error: {'torch ' * 40}": f"{failure}; its last error: torch torch",
        f"{failure}: the run hung: {'rank 3: no answer; ' * 9}see {run}/hang.md": f"{run}/hang.md",
        "x" * 300: f"x ...; see megabiomed logs {run} --job",
        failure: failure,
    }
    for reason, expected in reasons.items():
        (run / "slurm/incarnations.jsonl").write_text(
            "\n".join([*history, json.dumps(ended | {"reason": reason})]) + "\n"
        )
        status = status_of(run)
        assert expected in row(status)[-1]
        assert len(first_clause(reason, "r")) < 300 + len(str(run))
        shown = lines(status, width)
        assert max(len(line) for line in shown if "/" not in line and "xxx" not in line) <= width
        assert " ago)" in " ".join(shown)
        assert f"starts {status['starts']}" in "\n".join(shown)


def test_failures_are_counted_as_the_budget_counts_them(run: Path) -> None:
    job = json.loads((run / "slurm/job.json").read_text())
    (run / "slurm/job.json").write_text(json.dumps(job | {"max_failures": 3}))
    ended = {"kind": "end", "incarnation": "7.1.2", "before": 480, "after": 480, "outcome": ""}
    with (run / "slurm/incarnations.jsonl").open("a") as file:
        file.write(json.dumps(ended | {"outcome": "stopped"}) + "\n" + f"{json.dumps(ended)}\n" * 2)
    assert dict(zip(COLUMNS, row(status_of(run))))["failures"] == "2 of 3"


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
