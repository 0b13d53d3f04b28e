"""Trackers: one from outside the tree through the public command, and one that fails."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from prometheus_client.parser import text_string_to_metric_families
from support.runs import events, losses
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from megabiomed.checkpoint.fence import Fence
from megabiomed.config import RunConfig, TrackingConfig
from megabiomed.ground.errors import ConfigError, DataError, UserError
from megabiomed.runs.effective import keep
from megabiomed.runs.metrics import Reporter
from megabiomed.runs.tracking import Figures, find_trackers
from megabiomed.runs.tracking.base import TRACKERS
from megabiomed.runs.tracking.later import tell_rest

Command = Callable[..., subprocess.CompletedProcess[str]]
OUTSIDE = """
import json
from pathlib import Path

class Notebook:
    name = "the notebook"

    def start(self, config):
        self.file = config.folder / "notebook.jsonl"
        self.write("start", config.name)

    def metrics(self, figures):
        for each in figures:
            self.write("metrics", each.step, each.values)

    def event(self, kind, values):
        self.write("event", kind)

    def finish(self, status):
        self.write("finish", status)

    def write(self, *told):
        with self.file.open("a") as file:
            file.write(json.dumps(told) + "\\n")

class Torn(Notebook):
    name = "the torn notebook"

    def metrics(self, figures):
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


def reporting(folder: Path, kind: str | list[str], **more: object) -> Reporter:
    values = {"name": "t", "run_dir": folder, "train": {"steps": 3, "log_every": 1}, "tracking": {"kind": kind, **more}}
    reporter = Reporter(RunConfig.model_validate(values), True, 1, 3)
    reporter.track()
    reporter.start_clock()
    return reporter


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
    reporter = reporting(tmp_path / "r", f"own_tracker:{tracker}")
    for step in (1, 2):
        reporter.step(step, 1.0, 1.0, 1.0, 1, 60)
    reporter.finish("FINISHED")
    lines = capsys.readouterr().out.splitlines()
    said = [line for line in lines if line.startswith("warning")]
    assert said == [f"{warning}; figures go on in metrics.jsonl, and it is told when it answers"]
    assert lines[-1].endswith(f"was not told everything: the next start does it, or `megabiomed track {tmp_path / 'r'}` "
                              "once the run is over")  # fmt: skip
    assert len(losses(tmp_path / "r")) == 2


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """A tracker that answers while `open` is set, and fails while `away` is; it keeps what it was told."""
    state = types.SimpleNamespace(open=threading.Event(), away=False, told=[])
    state.open.set()

    class Ledger:
        name = "the ledger"

        def note(self, *told: object) -> None:
            assert state.open.wait(60)
            if state.away:
                raise OSError("no route")
            state.told.append(told)

        def start(self, config: RunConfig) -> None:
            self.note("start")

        def metrics(self, figures: Sequence[Figures]) -> None:
            self.note("steps", *(figure.step for figure in figures))

        def event(self, kind: str, values: dict[str, Any]) -> None:
            self.note(kind)

        def finish(self, status: str) -> None:
            self.note(status)

    monkeypatch.setattr(TRACKERS, "_found", {})
    monkeypatch.setitem(sys.modules, "ledger", types.SimpleNamespace(Ledger=Ledger))
    return state


def steps(told: list[tuple[Any, ...]]) -> list[int]:
    return [step for line in told if line[0] == "steps" for step in line[1:]]


def test_a_tracker_that_does_not_answer_holds_up_no_step_and_is_told_everything_in_the_end(
    ledger: types.SimpleNamespace, tmp_path: Path
) -> None:
    ledger.open.clear()
    reporter = reporting(tmp_path / "r", "ledger:Ledger")
    for step in range(1, 301):
        reporter.step(step, 1.0, 1.0, 1.0, 1, 60)
    assert len(losses(tmp_path / "r")) == 300  # nothing waited: the tracker has not even taken the start
    assert ledger.told == []
    ledger.open.set()
    reporter.finish("FINISHED")
    assert (ledger.told[0], ledger.told[-1]) == (("start",), ("FINISHED",))
    assert steps(ledger.told) == list(range(1, 301))


def test_what_a_tracker_missed_is_told_by_the_next_start_or_by_the_command_and_nothing_twice(
    ledger: types.SimpleNamespace, run_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "r"
    reporter = reporting(folder, "ledger:Ledger")
    reporter.step(1, 1.0, 1.0, 1.0, 1, 60)
    reporter.finish("KILLED")
    ledger.away = True
    reporter = reporting(folder, "ledger:Ledger")
    reporter.event("resume", step=1)
    reporter.step(2, 1.0, 1.0, 1.0, 1, 60)
    reporter.finish("KILLED")
    assert steps(ledger.told) == [1]
    ledger.away = False
    reporter = reporting(folder, "ledger:Ledger")
    reporter.step(3, 1.0, 1.0, 1.0, 1, 60)
    reporter.finish("KILLED")
    assert (steps(ledger.told), ledger.told.count(("resume",))) == ([1, 2, 3], 1)

    ledger.away = True
    reporter = reporting(folder, "ledger:Ledger")
    reporter.step(4, 1.0, 1.0, 1.0, 1, 60)
    keep(reporter.config)
    with pytest.raises(DataError, match=r"is not over: got last event: resume; .*start it again"):
        tell_rest(folder)
    reporter.event("finished", step=4)
    reporter.finish("FINISHED")
    with pytest.raises(UserError, match="the ledger was not told everything: got no route"):
        tell_rest(folder)
    ledger.away = False
    assert tell_rest(folder) == {"the ledger": "is told everything now"}
    assert tell_rest(folder) == {"the ledger": "was told everything before"}
    assert (steps(ledger.told), ledger.told[-1]) == ([1, 2, 3, 4], ("FINISHED",))


def test_a_start_that_was_taken_over_tells_its_trackers_nothing_more(
    ledger: types.SimpleNamespace, tmp_path: Path
) -> None:
    reporter = reporting(tmp_path / "r", "ledger:Ledger")
    reporter.hold(Fence.claim(tmp_path / "r"))
    reporter.event("start")
    Fence.claim(tmp_path / "r")
    reporter.event("saved too late")
    reporter.finish("FINISHED")
    assert ("saved too late",) not in ledger.told
    assert ("FINISHED",) not in ledger.told


def test_the_shipped_trackers_keep_the_same_figures(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    reporter = reporting(folder, ["mlflow", "tensorboard", "prometheus"])
    keep(reporter.config)
    reporter.event("start", step=0)
    for step in (1, 2, 3):
        reporter.step(step, 4.0 - step, math.inf if step == 2 else 1.0, 1e-3, 1, 60)
    reporter.event("finished", step=3)
    reporter.finish("FINISHED")

    client = MlflowClient(f"sqlite:///{folder.resolve() / 'mlflow.db'}")
    run = client.get_run((folder / "mlflow_run_id").read_text().strip())
    assert [metric.value for metric in client.get_metric_history(run.info.run_id, "train/loss")] == [3.0, 2.0, 1.0]
    assert (run.info.status, run.data.tags["not finite"]) == ("FINISHED", "train/grad_norm at step 2")
    kept = [file.path for file in client.list_artifacts(run.info.run_id)]
    assert kept == ["config.yaml", "environment.json", "report.html"]
    tags = client.get_experiment(run.info.experiment_id).tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"

    scalars = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert [(each.step, each.value) for each in scalars.Scalars("train/loss")] == [(1, 3.0), (2, 2.0), (3, 1.0)]

    families = {family.name: family for family in text_string_to_metric_families((folder / "metrics.prom").read_text())}
    found = {name: family.samples[0].value for name, family in families.items()}
    assert (found["megabiomed_train_loss"], found["megabiomed_step"], found["megabiomed_up"]) == (1.0, 3.0, 0.0)
    assert {"megabiomed_train_tokens_per_second_per_device", "megabiomed_train_eta_seconds"} <= found.keys()
    counts = {each.labels["kind"]: each.value for each in families["megabiomed_events"].samples if each.value < 100}
    assert counts == {"start": 1.0, "warning": 1.0, "finished": 1.0}


def test_wandb_keeps_one_run_over_two_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for step in (1, 2):
        reporter = reporting(tmp_path / "r", "wandb")
        reporter.step(step, 1.0, 1.0, 1.0, 1, 60)
        reporter.finish("KILLED" if step == 1 else "FINISHED")
    ident = (tmp_path / "r/wandb_run_id").read_text().strip()
    stored = list((tmp_path / "r/wandb").glob("offline-run-*/*.wandb"))
    assert [file.name for file in stored] == [f"run-{ident}.wandb"] * 2


def test_a_server_that_is_away_is_named_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reporter = reporting(tmp_path / "r", "mlflow", mlflow_uri="http://127.0.0.1:9")
    for step in (1, 2):
        reporter.validation(step, 2.0, 10)
    reporter.finish("FINISHED")
    assert capsys.readouterr().out.count("MLflow fails: ") == 1
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "1"


@pytest.mark.parametrize("values", [{"mlflow": False}, {"kind": None}, {"kind": None, "mlflow": True}])
def test_no_tracker_is_made_where_none_is_asked_for(values: dict[str, object]) -> None:
    assert find_trackers(TrackingConfig.model_validate(values)) == {}


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
        find_trackers(TrackingConfig(kind=kind))


def test_a_wrong_tracker_is_refused_before_a_rank_starts(run_file: Path, command: Command, tmp_path: Path) -> None:
    done = command("pretrain", run_file, f"run_dir={tmp_path / 'r'}", "tracking.kind=mlfow", code=2)
    assert "did you mean 'mlflow'" in done.stderr
    assert not (tmp_path / "r").exists()
