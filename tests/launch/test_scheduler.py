"""A scheduler that is not there, hangs, or fails in the middle: nothing is half done, and no healthy node is blamed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from megabiomed.errors import LaunchError
from megabiomed.launch import agent, records, scheduler
from megabiomed.launch.cluster import load_cluster
from megabiomed.launch.stage import load_stages
from megabiomed.launch.submit import Job, render


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


def planned(run_file: Path, run: Path) -> Job:
    (stage,) = load_stages(str(run_file), load_cluster("cpu-test"), [f"run_dir={run}"], 1)
    return render(stage)


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
