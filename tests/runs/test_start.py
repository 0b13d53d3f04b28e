"""Whoever starts the ranks, rank 0 prints the effective configuration once and keeps it in the run folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.runs import losses
from support.spawn import run_ranks

from megabiomed.config import RunConfig
from megabiomed.runs.effective import compact
from megabiomed.runs.kinds import read_run

Command = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = pytest.mark.timeout(240)


def as_kept(run: Path) -> RunConfig:
    """The configuration that a run keeps, as it was before there was a checkpoint that says whether the head is tied."""
    config = read_run(str(run / "config.yaml"), [])
    return config.model_copy(update={"model": config.model.model_copy(update={"tie_word_embeddings": None})})


def stored(run_file: Path, run: Path) -> str:
    """A configuration as the launchers store it; returns its path."""
    from megabiomed.config import to_yaml

    file = run.with_suffix(".yaml")
    file.write_text(to_yaml(read_run(str(run_file), [f"run_dir={run}", "train.steps=1"])))
    return str(file)


def test_our_launcher_prints_and_keeps_the_configuration_once(run_file: Path, command: Command, tmp_path: Path) -> None:
    said = command("run", run_file, f"run_dir={tmp_path / 'r'}", "train.steps=1").stdout
    config = as_kept(tmp_path / "r")
    assert said.count(compact(config)) == 1
    assert config.train.steps == 1


@pytest.mark.parametrize("worker", ["runs", "train", "align", "finetune"])
def test_ranks_of_another_launcher_print_it_too_under_every_name_of_the_worker(
    run_file: Path, tmp_path: Path, worker: str
) -> None:
    run = tmp_path / "r"
    run_ranks(2, ["-m", f"megabiomed.{worker}.worker", stored(run_file, run)], tmp_path / "logs")
    shown = compact(as_kept(run))
    assert (tmp_path / "logs/rank_0.log").read_text().count(shown) == 1
    assert shown not in (tmp_path / "logs/rank_1.log").read_text()
    assert len(losses(run)) == 1


def test_a_worker_that_cannot_read_its_configuration_says_so_to_its_launcher(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("name: t\ntrain: {stepps: 1}\n")
    told = tmp_path / "error"
    done = subprocess.run(
        [sys.executable, "-m", "megabiomed.runs.worker", str(tmp_path / "run.yaml")],
        env={**os.environ, "RANK": "0", "MEGABIOMED_ERROR_FILE": str(told)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "did you mean 'train.steps'" in told.read_text()
    assert "Traceback" not in done.stderr


def test_a_refused_start_leaves_the_kept_configuration_alone(run_file: Path, command: Command, tmp_path: Path) -> None:
    command("pretrain", run_file, f"run_dir={tmp_path / 'r'}", "train.stop_after=1")
    before = (tmp_path / "r/config.yaml").read_text()
    command("pretrain", run_file, f"run_dir={tmp_path / 'r'}", "seed=5", code=2)
    assert (tmp_path / "r/config.yaml").read_text() == before
