"""A run that one release submitted and another one operates: what is new to a reader does no harm, or is refused in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.scheduling import planned

from megabiomed.checkpoint.fence import Fence
from megabiomed.ground.errors import LaunchError
from megabiomed.ground.files import read_json, write_json
from megabiomed.launch import agent, records
from megabiomed.launch.change import stored_stage
from megabiomed.launch.control import resubmit
from megabiomed.launch.status import status_of
from megabiomed.launch.submit import prepare, submit_all

UNKNOWN = {"from_the_future": {"a": [1]}}
ADDED = ("format", "spare_nodes", "sizes", "shrink_after", "resources")
"""Keys that an earlier release did not write."""


@pytest.fixture
def run(run_file: Path, queue: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    base = queue()
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    job = planned(run_file, tmp_path / "run")
    submit_all([job])
    (base / "7").write_text(f"RUNNING|{job.path}\n")
    return tmp_path / "run"


def rewrite(run: Path, **values: Any) -> None:
    file = run / "slurm" / records.JOB
    write_json(file, read_json(file, dict) | values)


def test_keys_and_lines_that_a_reader_does_not_know_change_nothing_for_it(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(run, **UNKNOWN)
    assert agent.begin(run, "7.0.1").verb == "run"
    fence = Fence.inherit(run, "7.0")
    records.append(run, "of_a_newer_release", fence, incarnation="7.0.1", reason="?", **UNKNOWN)
    with (run / "slurm" / records.INCARNATIONS).open("a") as file:
        file.write(json.dumps({"time": records.now(), **UNKNOWN}) + "\n")
    assert agent.end(run, "7.0.1", 1, warned=False).reason == "failure 1 of 3 without progress, exit code 1, step 0"
    assert [record["kind"] for record in records.history(run)] == ["begin", "of_a_newer_release", "end"]
    found = status_of(run)
    assert (found["starts"], found["failures"], found["state"]) == (1, 1, "RUNNING")
    capsys.readouterr()
    rewrite(run, cluster=records.read_job(run)["cluster"] | {"from_the_future": 1})
    assert stored_stage(run).nodes == 1
    assert capsys.readouterr().err == "left out, because this release does not know them: from_the_future\n"


def test_the_record_of_an_earlier_release_is_read_and_its_run_submitted_again(run: Path, queue: Any) -> None:
    file = run / "slurm" / records.JOB
    write_json(file, {key: value for key, value in read_json(file, dict).items() if key not in ADDED})
    assert status_of(run)["stage"] == records.read_job(run)["stage"]
    assert agent.begin(run, "7.0.1").verb == "run"
    base = queue()
    (base / "7").write_text(f"FAILED|{run}/slurm/job.sh\n")
    assert list(resubmit(run, "failed", False)) == [f"submitted: {records.read_job(run)['stage']}: job 8"]


def test_a_format_that_would_be_misread_is_refused_by_every_command(run: Path, run_file: Path) -> None:
    assert records.read_job(run)["format"] == records.FORMAT
    rewrite(run, format=records.FORMAT + 1)
    said = rf"newer release of megabiomed: got format {records.FORMAT + 1}, expected format {records.FORMAT} at most"
    for command in (lambda: status_of(run), lambda: list(resubmit(run, "failed", True)), lambda: stored_stage(run)):
        with pytest.raises(LaunchError, match=said):
            command()
    prepare(planned(run_file, run), [run])  # a submission by hand makes it this release's
    assert records.read_job(run)["format"] == records.FORMAT
