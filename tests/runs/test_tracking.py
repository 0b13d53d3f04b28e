"""Trackers: one from outside the tree through the public command, and one that fails."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.runs import events, losses

from megabiomed.config import RunConfig, TrackingConfig
from megabiomed.ground.errors import ConfigError
from megabiomed.runs.metrics import Reporter
from megabiomed.runs.tracking import SafeTracker, find_tracker

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
        ("Torn", "warning: the torn notebook fails: no page is left"),
        ("Unmade", "warning: the notebook fails: out of paper"),
    ],
)
def test_a_tracker_that_fails_is_said_to_once_and_the_files_go_on(
    tracker: str, warning: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
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
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert said == [f"{warning}; figures go on in metrics.jsonl, tried again in 5 min"]
    assert len(losses(tmp_path / "r")) == 2


def test_a_tracker_is_tried_again_after_pauses_that_double_and_told_of_when_it_answers(tmp_path: Path) -> None:
    said: list[str] = []
    told: list[int] = []
    state = {"away": True, "now": 0.0}

    class Server:
        name = "the server"

        def start(self, config: RunConfig) -> None:
            if state["away"]:
                raise OSError("no route")

        def metrics(self, values: dict[str, float], step: int) -> None:
            told.append(step)

    tracker = SafeTracker(Server, said.append, lambda: state["now"])  # type: ignore[arg-type]
    tracker.start(RunConfig.model_validate({"name": "t", "run_dir": tmp_path, "train": {"steps": 3}}))
    for minute in range(16):
        state["now"], state["away"] = 60.0 * minute, minute < 14
        tracker.metrics({}, minute)
    assert [line.rpartition("again in ")[2] for line in said[:2]] == ["5 min", "10 min"]
    assert said[2:] == ["the server answers again"]
    assert told == [15]


def test_a_server_that_is_away_holds_a_run_up_for_seconds_and_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The client alone would try for minutes, without a word."""
    values = {"name": "t", "run_dir": tmp_path / "r", "train": {"steps": 3}}
    config = RunConfig.model_validate({**values, "tracking": {"mlflow_uri": "http://127.0.0.1:9"}})
    reporter = Reporter(config, True, 1, 3)
    reporter.track()
    reporter.validation(1, 2.0, 10)
    assert "warning: MLflow fails: " in capsys.readouterr().out
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "1"


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
