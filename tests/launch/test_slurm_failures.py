"""What takes minutes on a real SLURM: time limits, preemption, dead nodes, a dead controller, a bad node."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
import yaml
from support.operator import LONG, Operator, run_words
from support.reference import Reference
from support.runs import events

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(1800)]
STEPS = LONG


def nodes_of(operator: Operator, job: str) -> list[str]:
    return operator.cluster.run("scontrol", "show", "hostnames", operator.cluster.job(job)["NodeList"]).split()


def finished(operator: Operator, job: str, run: Path, reference: Reference, steps: int = STEPS) -> dict[str, str]:
    found = operator.final(job, run, 1500)
    assert found["JobState"] == "COMPLETED", operator.logs(run)
    operator.ends_as(run, reference, steps)
    return found


def limited(operator: Operator, folder: Path) -> tuple[str, Path]:
    """Job and folder of a run of 60 steps with a limit of two minutes, which trains and has saved nothing."""
    run = folder / "run"
    operator.configure(time="00:02:00", grace_seconds=30)
    (job,) = operator.submit(None, *run_words(run, 60, "checkpoint.save_every=0")).values()
    operator.until(lambda: operator.step(run) >= 2, run)
    return job, run


def test_it_leaves_before_its_time_limit_and_comes_back(
    operator: Operator, tmp_path: Path, reference: Reference
) -> None:
    job, run = limited(operator, tmp_path)
    with operator.frozen(run):  # or a fast machine would finish first
        operator.until(lambda: "time limit or preemption" in (run / "slurm" / "job.log").read_text(), run)
    restarts = int(finished(operator, job, run, reference, 60)["Restarts"])  # more than one on a machine that is slow
    reasons = [item["reason"] for item in operator.status(run)[0]["endings"]]
    assert (restarts > 0, reasons) == (True, ["stopped and saved"] * restarts + ["finished"])


def test_a_run_that_cannot_save_in_time_is_requeued_at_the_limit(
    operator: Operator, tmp_path: Path, reference: Reference
) -> None:
    job, run = limited(operator, tmp_path)
    operator.kill_rank(run, 3, signal.SIGSTOP)
    finished(operator, job, run, reference, 60)
    assert "time limit reached: requeue" in (run / "slurm" / "job.log").read_text()
    assert operator.status(run)[0]["starts"] > 1


def test_a_limit_that_is_extended_while_the_job_runs_is_obeyed(
    operator: Operator, tmp_path: Path, reference: Reference
) -> None:
    job, run = limited(operator, tmp_path)
    operator.cluster.run("scontrol", "update", f"jobid={job}", "timelimit=10")
    with operator.frozen(run):  # until the first limit is over
        operator.until(lambda: "the time limit was extended" in (run / "slurm" / "job.log").read_text(), run)
        (noted,) = run.glob("logs/*/stop_at")
        operator.until(lambda: time.time() > float(noted.read_text()) - 8 * 60, run)
    assert finished(operator, job, run, reference, 60)["Restarts"] == "0"


def test_preempted_it_saves_and_comes_back(operator: Operator, tmp_path: Path, reference: Reference) -> None:
    run = tmp_path / "run"
    operator.configure(partition="low", sbatch={"exclusive": True})
    (job,) = operator.submit(None, *run_words(run, STEPS)).values()
    operator.until(lambda: operator.step(run) >= 5, run)
    other = operator.cluster.run(
        "sbatch", "--parsable", "--partition=main", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap=sleep 2"
    ).strip()
    assert operator.final(other, run)["JobState"] == "COMPLETED"
    assert int(finished(operator, job, run, reference)["Restarts"]) >= 1
    endings = operator.status(run)[0]["endings"]
    assert not any(item.pop("first_failure") for item in endings)
    assert "failure" not in str(endings)


@pytest.mark.parametrize("which", [-1, 0], ids=["a node", "the head node"])
def test_a_node_that_loses_power_is_replaced(
    operator: Operator, tmp_path: Path, reference: Reference, which: int
) -> None:
    run = tmp_path / "run"
    (job,) = operator.submit(None, *run_words(run, STEPS)).values()
    operator.until(lambda: operator.step(run) >= 8, run)
    dead = nodes_of(operator, job)[which]
    operator.cluster.power_off(dead)
    finished(operator, job, run, reference)
    assert dead not in nodes_of(operator, job)


@pytest.mark.parametrize("event", ["a power cut", "an operator's requeue"])
def test_what_comes_in_the_middle_of_a_save_costs_only_that_save(
    operator: Operator, tmp_path: Path, reference: Reference, event: str
) -> None:
    run = tmp_path / "run"
    (job,) = operator.submit(None, *run_words(run, 60, "checkpoint.save_every=2")).values()
    operator.until(lambda: operator.step(run) >= 6, run)
    operator.until(lambda: list((run / "checkpoints").glob("*.tmp-*")), run)
    if event == "a power cut":
        operator.cluster.power_off(nodes_of(operator, job)[-1])
    else:
        operator.cluster.run("scontrol", "requeue", job)
    found = finished(operator, job, run, reference, 60)
    assert int(found["Restarts"]) == 1
    assert not list((run / "checkpoints").glob("*.tmp-*"))


def test_a_controller_that_dies_and_comes_back_changes_nothing(
    operator: Operator, tmp_path: Path, reference: Reference
) -> None:
    run = tmp_path / "run"
    (job,) = operator.submit(None, *run_words(run, STEPS)).values()
    operator.until(lambda: operator.step(run) >= 5, run)
    os.kill(int((operator.cluster.base / "run" / "slurmctld.pid").read_text()), signal.SIGKILL)
    operator.until(lambda: operator.step(run) >= 60, run)
    operator.cluster.start_controller()
    finished(operator, job, run, reference)


def test_bad_nodes_are_named_and_avoided(operator: Operator, tmp_path: Path, reference: Reference) -> None:
    """On n1 not even the batch script's python starts; on n2 the container is missing."""
    run = tmp_path / "run"
    lame, broken = tmp_path / "python.sh", tmp_path / "container.sh"
    lame.write_text(f'#!/bin/bash\n[ "$(hostname)" = n1 ] && exit 127\nexec {sys.executable} "$@"\n')
    broken.write_text('#!/bin/bash\n[ "$(hostname)" = n2 ] && { echo "no such image" >&2; exit 1; }\nexec "$@"\n')
    for file in (lame, broken):
        file.chmod(0o755)
    operator.configure(
        preflight=True, wrap=[str(broken)], host_python=str(lame), python=sys.executable, slow_factor=1e9
    )
    (job,) = operator.submit(None, *run_words(run, 12)).values()
    found = finished(operator, job, run, reference, 12)
    assert nodes_of(operator, job) == ["n3", "n4"]
    assert operator.cluster.run("scontrol", "show", "hostnames", found["ExcNodeList"]).split() == ["n1", "n2"]
    log = (run / "slurm" / "job.log").read_text()
    assert "no answer from the agent on n1" in log
    assert "n2: no answer" in log


def test_a_node_that_hangs_in_its_preflight_is_named_and_the_run_goes_on_without_it(
    operator: Operator, tmp_path: Path, reference: Reference
) -> None:
    """Its check stands still, as where the driver of a device does; the other node waits for it."""
    run = tmp_path / "run"
    operator.configure(preflight=True, preflight_minutes=1, slow_factor=1e9)
    (job,) = operator.submit(None, *run_words(run, 12)).values()
    operator.until(lambda: operator.cluster.job(job)["JobState"] == "RUNNING", run)
    hung = nodes_of(operator, job)[-1]
    operator.until(lambda: list(run.glob(f"slurm/preflight/*/{hung}.json")), run)
    operator.stop_preflight(hung)
    found = finished(operator, job, run, reference, 12)
    assert (found["Restarts"], found["ExcNodeList"]) == ("1", hung)
    assert hung not in nodes_of(operator, job)
    assert re.search(rf"bad nodes: {hung}: hung in its check of \w+", (run / "slurm" / "job.log").read_text())
    assert [item["decision"] for item in operator.status(run)[0]["endings"]] == ["done"]


def test_a_zombie_commits_nothing_and_does_not_disturb_its_successor(
    operator: Operator, tmp_path: Path, reference: Reference
) -> None:
    """Both nodes lose the scheduler and go on with the run, while it starts the job elsewhere under the same id."""
    run = tmp_path / "run"
    (job,) = operator.submit(None, *run_words(run, 100)).values()
    operator.until(lambda: operator.step(run) >= 2, run)
    cut_off = nodes_of(operator, job)
    with operator.frozen(run):  # or it might finish before it has a successor
        for node in cut_off:
            operator.cluster.cut_off(node)
        operator.until(lambda: json.loads((run / "fence.json").read_text())["token"].startswith(f"{job}.1-"), run)
    zombie = min(run.glob("logs/*"))
    operator.until(lambda: "taken over by a later start" in (zombie / "rank_0.log").read_text(), run)
    operator.until(lambda: "a later start took over" in (run / "slurm" / "job.log").read_text(), run)
    found = finished(operator, job, run, reference, 100)
    assert found["Restarts"] == "1"
    assert not set(cut_off) & set(nodes_of(operator, job))
    assert [item["decision"] for item in operator.status(run)[0]["endings"]] == ["done"]


def test_a_run_that_hangs_is_ended_explained_and_started_again(
    operator: Operator, tmp_path: Path, reference: Reference
) -> None:
    run = tmp_path / "run"
    (job,) = operator.submit(None, *run_words(run, STEPS, "train.hang_timeout_s=20")).values()
    operator.until(lambda: operator.step(run) >= 8, run)
    operator.kill_rank(run, 3, signal.SIGSTOP)
    finished(operator, job, run, reference)
    (page,) = run.glob("logs/*/hang.md")
    assert "rank 3: **no answer**" in page.read_text()
    assert "**rank 3 is behind**" in page.read_text() or "wait in gloo:" in page.read_text()
    assert "rank 3: no answer" in operator.status(run)[0]["endings"][0]["reason"]


def test_a_run_on_nodes_of_two_kinds_is_one_run(operator: Operator, tmp_path: Path, reference: Reference) -> None:
    run = tmp_path / "run"
    operator.configure(preflight=True, slow_factor=1e9)
    stage = {
        "name": "mixed",
        "run": str(operator.run_file),
        "nodes": 1,
        "components": [
            {"nodes": 1, "ranks_per_node": 1},
            {"nodes": 1, "ranks_per_node": 1, "sbatch": {"partition": "low"}},
        ],
        "overrides": run_words(run, 60),
    }
    chain = tmp_path / "chain.yaml"
    chain.write_text(yaml.safe_dump({"name": "het", "stages": [stage]}))
    (job,) = operator.submit(chain, nodes=None).values()
    operator.until(lambda: operator.step(run) >= 8, run)
    operator.cluster.run("scancel", "--batch", "--signal=USR1", job)
    operator.until(lambda: "finished" in [event["event"] for event in events(run)], run, 300)
    operator.ends_as(run, reference, 60)
    assert operator.status(run)[0]["endings"][0]["decision"] == "requeue"


def test_a_failing_prolog_is_shown_and_release_runs_the_job_elsewhere(
    operator: Operator, tmp_path: Path, reference: Reference
) -> None:
    run, prolog = tmp_path / "run", tmp_path / "prolog.sh"
    prolog.write_text('#!/bin/bash\n[ "$(hostname)" != n1 ]\n')
    prolog.chmod(0o755)
    conf = operator.cluster.base / "etc" / "slurm.conf"
    before = conf.read_text()
    try:
        conf.write_text(f"{before}Prolog={prolog}\nPrologFlags=Alloc\n")
        operator.cluster.run("scontrol", "reconfigure")
        (job,) = operator.submit(None, *run_words(run, 12)).values()
        operator.until(lambda: operator.cluster.job(job)["Reason"] not in ("None", "Priority", "Resources"), run)
        row = operator.status(run)[0]
        assert (row["state"], "launch" in row["reason"]) == ("PENDING", True)
        operator.type("release", run)
        finished(operator, job, run, reference, 12)
        assert "n1" not in nodes_of(operator, job)
    finally:
        conf.write_text(before)
        operator.cluster.run("scontrol", "reconfigure")
        operator.cluster.run("scontrol", "update", "nodename=n1", "state=resume")


def test_a_suspension_longer_than_the_hang_guard_is_no_hang(
    operator: Operator, tmp_path: Path, reference: Reference
) -> None:
    run = tmp_path / "run"
    limits = ("train.hang_timeout_s=15", "train.collective_timeout_s=300")
    (job,) = operator.submit(None, *run_words(run, STEPS, *limits)).values()
    operator.until(lambda: operator.step(run) >= 5, run)
    operator.cluster.run("scontrol", "suspend", job)
    then, step = time.monotonic(), operator.step(run)
    assert operator.cluster.job(job)["JobState"] == "SUSPENDED"
    operator.until(lambda: time.monotonic() > then + 25, run)
    assert operator.step(run) <= step + 1
    operator.cluster.run("scontrol", "resume", job)
    assert finished(operator, job, run, reference)["Restarts"] == "0"
    (log,) = run.glob("logs/*/rank_0.log")
    assert "suspended: rank 0 did not run for" in log.read_text()
