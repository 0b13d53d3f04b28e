"""Trackers: one from outside the tree through the public command, and one that fails."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.runs import events, losses

from megabiomed.config import RunConfig, TrackingConfig
from megabiomed.ground.errors import ConfigError
from megabiomed.runs.metrics import Reporter
from megabiomed.runs.tracking import find_tracker

Command = Callable[..., subprocess.CompletedProcess[str]]
OUTSIDE = """
import json
from pathlib import Path

class Notebook:
    name = "the notebook"

    def start(self, config):
        self.file = config.folder / "notebook.jsonl"
        self.write("start", config.name)

    def metrics(self, values, step):
        self.write("metrics", step, values)

    def event(self, kind, values):
        self.write("event", kind)

    def finish(self, status):
        self.write("finish", status)

    def write(self, *told):
        with self.file.open("a") as file:
            file.write(json.dumps(told) + "\\n")

class Torn(Notebook):
    name = "the torn notebook"

    def metrics(self, values, step):
        raise OSError("no page is left")

class Unmade(Notebook):
    def __init__(self):
        raise OSError("out of paper")
"""


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_tracker.py").write_text(OUTSIDE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("outside")
def test_a_tracker_from_outside_gets_every_figure_and_event_of_a_run_and_of_its_resume(
    run_file: Path, command: Command, tmp_path: Path
) -> None:
    words = [f"run_dir={tmp_path / 'r'}", "tracking.kind=own_tracker:Notebook"]
    command("pretrain", run_file, *words, "train.stop_after=1", "train.steps=2")
    command("pretrain", run_file, *words, "train.steps=2")
    told = [json.loads(line) for line in (tmp_path / "r/notebook.jsonl").read_text().splitlines()]
    kinds = [line[0] for line in told]
    assert (kinds.count("start"), kinds.count("finish"), kinds[0], kinds[-1]) == (2, 2, "start", "finish")
    assert [line[1] for line in told if line[0] == "finish"] == ["KILLED", "FINISHED"]
    assert [line[1] for line in told if line[0] == "event"] == [event["event"] for event in events(tmp_path / "r")]
    found = {line[1]: line[2]["train/loss"] for line in told if line[0] == "metrics" and "train/loss" in line[2]}
    assert found == losses(tmp_path / "r")


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize(
    ("tracker", "warning"),
    [
        ("Torn", "the torn notebook is switched off for this run: no page is left"),
        ("Unmade", "the notebook is switched off for this run: out of paper"),
    ],
)
def test_a_tracker_that_fails_is_switched_off_once_and_the_files_go_on(
    tracker: str, warning: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = {
        "name": "t",
        "run_dir": tmp_path / "r",
        "train": {"steps": 3},
        "tracking": {"kind": f"own_tracker:{tracker}"},
    }
    reporter = Reporter(RunConfig.model_validate(values), True, 1, 3)
    reporter.track()
    reporter.start_clock()
    for step in (1, 2):
        reporter.step(step, 1.0, 1.0, 1.0, 1, 60)
    reporter.finish("FINISHED")
    assert [record.getMessage() for record in caplog.records] == [warning]
    assert len(losses(tmp_path / "r")) == 2


@pytest.mark.parametrize("values", [{"mlflow": False}, {"kind": None}, {"kind": None, "mlflow": True}])
def test_no_tracker_is_made_where_none_is_asked_for(values: dict[str, object]) -> None:
    assert find_tracker(TrackingConfig.model_validate(values)) is None


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("mlfow", "unknown tracker: got 'mlfow', .* did you mean 'mlflow'"),
        ("no_such_package:Tracker", "cannot be imported"),
        ("math:pi", "is not a tracker: got 3.14.*, expected a class with the methods start, metrics, event, finish"),
    ],
)
def test_what_is_no_tracker_is_refused(kind: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_tracker(TrackingConfig(kind=kind))


def test_a_wrong_tracker_is_refused_before_a_rank_starts(run_file: Path, command: Command, tmp_path: Path) -> None:
    done = command("pretrain", run_file, f"run_dir={tmp_path / 'r'}", "tracking.kind=mlfow", code=2)
    assert "did you mean 'mlflow'" in done.stderr
    assert not (tmp_path / "r").exists()
