"""A scheduler that is not there, hangs, or fails in the middle: nothing is half done, and no healthy node is blamed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from megabiomed.errors import LaunchError
from megabiomed.launch import agent, records, scheduler
from megabiomed.launch.cluster import load_cluster
from megabiomed.launch.preflight_verdict import MET
from megabiomed.launch.stage import load_stages
from megabiomed.launch.submit import Job, describe, prepare, render, submit_all


def program(folder: Path, name: str, body: str) -> None:
    """A stand-in for one of SLURM's commands."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{body}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of stand-ins that come first in PATH."""
    folder = tmp_path / "bin"
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def planned(run_file: Path, run: Path, **sbatch: str) -> Job:
    (stage,) = load_stages(str(run_file), load_cluster("cpu-test"), [f"run_dir={run}"], 1)
    return render(replace(stage, sbatch=sbatch))


def test_a_command_that_hangs_is_an_error_that_callers_expect(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "_TIMEOUT_S", 0.2)
    for name in ("scontrol", "sbatch"):
        program(tools, name, "exec sleep 60")
    with pytest.raises(LaunchError, match="scontrol did not answer: got nothing in 0 s"):
        scheduler.job("7")
    with pytest.raises(LaunchError, match="sbatch did not answer"):
        scheduler.check_script(tools / "job.sh")
    monkeypatch.setenv("PATH", str(tools.parent / "nothing"))
    with pytest.raises(LaunchError, match="sbatch cannot be started"):
        scheduler.check_script(tools / "job.sh")


def test_a_controller_that_hangs_at_the_end_of_an_incarnation_does_not_keep_the_decision_from_being_made(
    tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "_TIMEOUT_S", 0.2)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    program(tools, "scontrol", "exec sleep 60")
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "job.json").write_text(json.dumps({"kind": "pretrain", "max_failures": 3, "ranks": 2}))
    records.append(tmp_path, "begin", incarnation="7.0.1", step=0)
    agent._job.cache_clear()
    assert agent.end(tmp_path, "7.0.1", 137, warned=False).verb == "requeue"
    agent._job.cache_clear()
    (last,) = (record for record in records.history(tmp_path) if record["kind"] == "end")
    assert last["reason"] == "failure 1 of 3 without progress, exit code 137, step 0"


def test_without_a_scheduler_nothing_of_a_run_is_touched(run_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "r"
    (run / "slurm").mkdir(parents=True)
    (run / "slurm" / "job.json").write_text('{"job_id": null}')
    words = ["submit", str(run_file), "--cluster", "cpu-test", f"run_dir={run}"]
    done = subprocess.run(
        [sys.executable, "-m", "megabiomed.cli", *words],
        env=os.environ | {"PATH": str(Path(sys.executable).parent)}, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, "sbatch is not installed here" in done.stderr) == (2, True), done.stderr
    assert [path.name for path in run.rglob("*")] == ["slurm", "job.json"]
    assert (run / "slurm" / "job.json").read_text() == '{"job_id": null}'


@pytest.mark.parametrize(
    "error", [OSError("No space left on device"), KeyboardInterrupt()], ids=["full disk", "Ctrl-C"]
)
def test_a_chain_is_taken_back_whatever_keeps_it_from_being_submitted_whole(
    run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    one, two, three = (planned(run_file, tmp_path / name) for name in ("one", "two", "three"))
    jobs = [replace(job, stage=replace(job.stage, name=name)) for name, job in zip("abc", (one, two, three))]
    ids = iter(["7", "8"])
    cancelled: list[tuple[str, ...]] = []

    def submit(script: Path, after: list[str]) -> str:
        for job_id in ids:
            return job_id
        raise error

    def call(*words: str) -> str:
        cancelled.append(words)
        raise LaunchError("scancel refused")  # the others are cancelled all the same

    for name, stand_in in {"need": str, "check_script": str, "submit": submit, "call": call}.items():
        monkeypatch.setattr(scheduler, name, stand_in)
    with pytest.raises(type(error)):
        submit_all(jobs)
    assert cancelled == [("scancel", "7"), ("scancel", "8")]


def test_a_submission_of_a_run_that_began_is_noted(
    run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = planned(run_file, tmp_path / "run")
    for name, stand_in in {"need": str, "check_script": str, "submit": lambda script, after: "7"}.items():
        monkeypatch.setattr(scheduler, name, stand_in)
    monkeypatch.setattr(scheduler, "job_of", lambda run: {})
    submit_all([job])
    assert records.history(job.stage.folder) == []
    records.append(job.stage.folder, "begin", incarnation="7.0.1", step=0)
    submit_all([job])
    assert [record.get("outcome") for record in records.history(job.stage.folder)] == [None, "resubmitted"]


def test_the_operators_own_exclusions_hold_when_the_controller_is_away(
    run_file: Path, tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = planned(run_file, tmp_path / "run", exclude="n8,n9")
    assert describe(planned(run_file, tmp_path, exclude="/etc/bad"), [])["exclude"] is None
    prepare(job, [])
    program(tools, "scontrol", '[ "$2" = hostnames ] || { echo down >&2; exit 1; }; tr , "\\n" <<< "$3"')
    monkeypatch.setenv(agent.NODES, "n1,n2")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    (job.stage.folder / "slurm" / "preflight" / "7.0.1").mkdir(parents=True)
    well = {"problems": [], "group": 0, "measured": {}, "meeting": MET}
    (job.stage.folder / "slurm" / "preflight" / "7.0.1" / "n1.json").write_text(json.dumps(well))
    agent._job.cache_clear()
    assert agent.judge(job.stage.folder, "7.0.1").exclude == ("n2", "n8", "n9")
    agent._job.cache_clear()


@pytest.mark.parametrize("storage", [True, False], ids=["storage", "no storage"])
def test_nodes_without_an_agent_are_left_three_times_whatever_else_is_excluded(
    run_file: Path, tools: Path, tmp_path: Path, storage: bool
) -> None:
    """The script in bash, on nodes n1 to n4 one after the other, with a stand-in for scontrol that keeps the list."""
    job = planned(run_file, tmp_path / "run", exclude="n6,n7,n8,n9")
    if storage:
        (job.stage.folder / "slurm").mkdir(parents=True)
        (job.stage.folder / "slurm" / "no_agent").write_text("6 n1\n" * 9)  # of an earlier submission
    excluded = tmp_path / "excluded"
    excluded.write_text("n6,n7,n8,n9")
    program(tools, "scontrol", f"""case "$*" in
        "show hostnames"*) tr , "\\n" <<< "$3" ;;
        *"show job"*) echo " JobState=RUNNING Restarts=0 "; echo "   ExcNodeList=$(cat {excluded})" ;;
        update*) echo "${{@: -1}}" | cut -d= -f2 > {excluded} ;;
    esac""")  # fmt: skip
    script = re.sub(r"^agent\(\) .*$", "agent() { :; }", job.script, flags=re.MULTILINE)
    said = []
    for node in ("n1", "n2", "n3", "n4"):
        environment = {
            "PATH": os.environ["PATH"],
            "SLURM_JOB_ID": "7",
            "SLURMD_NODENAME": node,
            "SLURM_JOB_NODELIST": "",
        }
        done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=60)
        said.append((done.returncode, done.stdout.split("] ", 1)[1].strip()))
    wanted = [(0, f"requeue: no answer from the agent on {node}") for node in ("n1", "n2", "n3")]
    assert said == [*wanted, (1, "give up: no agent on three nodes before this one")]
    assert excluded.read_text().strip() == "n6,n7,n8,n9,n1,n2,n3"


def test_a_preflight_that_hangs_ends_long_before_the_job(run_file: Path, tmp_path: Path) -> None:
    for time, limit in [("24:00:00", 15), ("10", 10)]:
        cluster = load_cluster("cpu-test").model_copy(update={"preflight": True, "time": time})
        (stage,) = load_stages(str(run_file), cluster, [f"run_dir={tmp_path}/r"], 2)
        assert f" --time={limit} --wait=300 " in render(stage).script
