"""What a run reports, on the terminal, in its files and in MLflow."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from megabiomed.config import RunConfig
from megabiomed.ground.figures import perplexity
from megabiomed.runs.metrics import Reporter
from megabiomed.runs.plot import plot_run, read_curve


def config(folder: Path, **values: object) -> RunConfig:
    base = {
        "name": "r", "run_dir": folder, "train": {"steps": 4, "log_every": 2}, "tracking": {"mlflow": False},
        "data": {"seq_length": 16, "global_batch_size": 2},
    }  # fmt: skip
    return RunConfig.model_validate({**base, **values})


def records(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_each_logged_step_is_one_line_of_keys_and_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter(config(tmp_path), True, 1, 3)
    reporter.start_clock()
    for step in (1, 2, 3):
        reporter.step(step, 2.0 / step, 0.5, 1e-3, 30, 60)
    lines = capsys.readouterr().out.splitlines()
    # log_every is 2; the last step is always logged.
    assert [re.match(r"step: (\d)/3 loss: ", line)[1] for line in lines] == ["2", "3"]  # type: ignore[index]
    assert {"grad_norm:", "lr:", "tokens/s:", "useful_tokens/s:", "tokens/s/device:", "memory:", "eta:"} <= set(
        lines[0].split()
    )
    stored = records(tmp_path / "metrics.jsonl")
    assert [record["step"] for record in stored] == [2, 3]
    assert stored[1]["train/loss"] == 2.0 / 3
    useful, computed = stored[0]["train/useful_tokens_per_s"], stored[0]["train/tokens_per_s"]
    assert useful / computed == pytest.approx(30 / 32)  # type: ignore[operator]


def test_the_summary_spans_the_whole_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter(config(tmp_path), True, 1, 4)
    reporter.start_clock()
    for step, loss in ((1, 9.0), (2, 5.0), (3, 4.0)):
        reporter.step(step, loss, 0.5, 1e-3, 30, 60)
        reporter.start_clock()  # an evaluation or a save begins the speed measurement anew, not the summary
    reporter.summary()
    last = capsys.readouterr().out.splitlines()[-1]
    assert "steps: 3 tokens: 96" in last
    assert "first_loss: 9.0000 last_loss: 4.0000" in last


def test_other_ranks_write_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter(config(tmp_path / "run"), False, 2, 1)
    reporter.track()
    reporter.start_clock()
    reporter.step(1, 1.0, 1.0, 1.0, 1, 60)
    reporter.event("start")
    reporter.summary()
    reporter.finish("FINISHED")
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr().out == ""


def test_a_broken_tracker_warns_and_the_run_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.db").write_text("this is no database\n" * 100)
    tracking = {"mlflow": True, "mlflow_uri": f"sqlite:///{tmp_path / 'broken.db'}"}
    reporter = Reporter(config(tmp_path, tracking=tracking), True, 1, 1)
    reporter.track()
    reporter.start_clock()
    reporter.step(1, 1.0, 1.0, 1.0, 1, 60)
    reporter.finish("FINISHED")
    said = capsys.readouterr().out
    assert "warning: MLflow fails: " in said
    assert "figures go on in metrics.jsonl" in said
    assert len(records(tmp_path / "metrics.jsonl")) == 1


def test_figures_that_are_not_finite_are_words_with_a_warning_and_nan_in_mlflow(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"sqlite:///{tmp_path / 'm.db'}"
    reporter = Reporter(config(tmp_path, tracking={"mlflow": True, "mlflow_uri": uri}), True, 1, 9)
    reporter.track()
    reporter.start_clock()
    reporter.validation(1, math.nan, 5)
    reporter.evaluation(2, {"papers_loss": 800.0, "papers_perplexity": perplexity(800.0), "general_perplexity": 3.0})
    reporter.step(4, 1.0, 1.0, 1.0, 1, 60)
    reporter.finish("FINISHED")
    said = capsys.readouterr().out.splitlines()
    assert "validation_loss: not finite" in said[0]
    assert said[1] == "warning: step: 1/9 not finite: validation/loss nan"
    assert said[2] == "step: 2/9 papers_loss: 800.0000 papers_perplexity: not finite general_perplexity: 3.0000"
    assert said[4].endswith(" papers_perplexity: not finite general_perplexity: 3.00")
    held = [
        json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ]
    assert held[0]["validation/loss"] == held[1]["evaluation/papers_perplexity"] == "not finite"
    assert held[1]["evaluation/general_perplexity"] == 3.0
    told = [event for event in records(tmp_path / "events.jsonl") if event["event"] == "warning"]
    assert [(event["step"], event["figures"]) for event in told] == [
        (1, {"validation/loss": "nan"}), (2, {"evaluation/papers_perplexity": "inf"})
    ]  # fmt: skip
    assert math.isnan(read_curve(tmp_path, "validation/loss")[1][0])
    plot_run(tmp_path, tmp_path / "curve.svg")
    run = MlflowClient(tracking_uri=uri).get_run((tmp_path / "mlflow_run_id").read_text().strip()).data
    assert math.isnan(run.metrics["evaluation/papers_perplexity"])
    assert run.tags["not finite"].endswith("evaluation/papers_perplexity at step 2")
