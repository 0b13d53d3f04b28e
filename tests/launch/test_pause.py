"""A run that is paused saves, leaves its nodes and waits until it is released; its job is never lost."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest
from support.scheduling import planned, program

from megabiomed.ground.errors import LaunchError
from megabiomed.launch import agent, records
from megabiomed.launch.control import scontrol
from megabiomed.launch.pause import pause
from megabiomed.launch.status import status_of
from megabiomed.launch.submit import prepare
from megabiomed.processes.signals import Request, StopFlag


@pytest.fixture
def run(run_file: Path, tmp_path: Path) -> Path:
    """A submitted run that never started."""
    folder = tmp_path / "run"
    prepare(planned(run_file, folder), [folder])
    record = records.read_job(folder) | {"job_id": "7"}
    (folder / "slurm" / "job.json").write_text(json.dumps(record))
    return folder


def scheduler_says(tools: Path, run: Path, state: str) -> Path:
    """A scheduler that knows one job; returns the file of what was asked of it."""
    asked = tools / "asked"
    body = f'echo "$(basename $0) $*" >> {asked}; echo "JobId=7 JobState={state} Command={run}/slurm/job.sh"'
    for name in ("scontrol", "scancel"):
        program(tools, name, body)
    return asked


@pytest.mark.parametrize(
    ("state", "said", "asked"),
    [
        ("PENDING", "paused: job 7 waits, held", "scontrol hold 7"),
        ("RUNNING", "asked to save and wait: job 7", None),
        ("AWAY", "now or when it starts: the scheduler does not answer", None),
    ],
)
def test_the_switch_is_set_whatever_the_scheduler_says(
    run: Path, tools: Path, state: str, said: str, asked: str | None
) -> None:
    if state != "AWAY":
        calls = scheduler_says(tools, run, state)
    (line,) = pause(run)
    assert said in line
    assert records.is_paused(run)
    assert asked is None or asked in calls.read_text()


def test_nodes_that_copy_hear_of_it_from_the_script_and_ranks_look_themselves(
    run: Path, tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = scheduler_says(tools, run, "RUNNING")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert agent.begin(run, "7.0.1").verb == "run"
    logs = run / "logs" / "7.0.1"
    (logs / "staged").mkdir(parents=True)
    list(pause(run))
    assert "scancel --batch --signal=USR1 7" in asked.read_text()
    asked.unlink()
    (logs / "started").touch()  # the ranks
    list(pause(run))
    assert "scancel" not in asked.read_text()


def test_what_is_not_in_the_queue_is_not_left_with_a_switch_that_would_end_its_next_start(
    run: Path, tools: Path
) -> None:
    scheduler_says(tools, run, "COMPLETED")
    with pytest.raises(LaunchError, match=r"nothing to pause: .* is not in the queue: got COMPLETED"):
        list(pause(run))
    assert not records.is_paused(run)


def test_ranks_save_and_leave_to_be_resumed_and_no_start_begins_before_the_release(
    run: Path, tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = scheduler_says(tools, run, "PENDING")
    list(pause(run))
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # those of the test runner stay
    stop = StopFlag()
    stop.watch(run)
    assert (stop.mine(), stop.received) == (Request.STOP, "pause")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    scheduler_says(tools, run, "RUNNING")
    decision = agent.begin(run, "7.0.1")
    assert (decision.verb, decision.reason) == ("requeue", "paused")
    assert status_of(run)["blocked"] == f"to be paused: megabiomed release {run}"
    scheduler_says(tools, run, "PENDING")
    assert list(scontrol(run, "release")) == ["release: job 7"]
    assert "scontrol release 7" in asked.read_text()
    assert not records.is_paused(run)
    scheduler_says(tools, run, "RUNNING")
    assert agent.begin(run, "7.0.2").verb == "run"


@pytest.mark.parametrize(("paused", "exclude"), [(True, ""), (True, "n3"), (False, "n3"), (False, "")])
def test_the_batch_script_holds_the_job_of_a_paused_run_and_releases_no_other(
    run: Path, tools: Path, paused: bool, exclude: str
) -> None:
    asked = scheduler_says(tools, run, "RUNNING")
    program(
        tools, "scontrol",
        f'echo "$*" >> {asked}; [ "$2" = show ] && echo " JobState=RUNNING Restarts=0 "; true',
    )  # fmt: skip
    if paused:
        (run / "control").mkdir()
        (run / "control" / "pause").touch()
    text = (run / "slurm" / "job.sh").read_text()
    functions = text[text.index("say() ") : text.index("give_up() {")]
    script = f"incarnation=7.0.1\n{functions}\ngive_up() {{ exit 9; }}\nrequeue reason '{exclude}'"
    done = subprocess.run(
        ["bash", "-c", script], env={"PATH": f"{tools}:/usr/bin:/bin", "SLURM_JOB_ID": "7"}, check=False
    )
    assert done.returncode == 0
    calls = [line for line in asked.read_text().splitlines() if "show" not in line]
    held = paused or exclude
    assert calls == [
        "requeuehold 7" if held else "requeue 7",
        *([f"update jobid=7 excnodelist={exclude}"] if exclude else []),
        *(["release 7"] if exclude and not paused else []),
    ]
