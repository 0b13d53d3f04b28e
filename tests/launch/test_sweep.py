"""Runs that differ in some values: named by them, submitted once each, so many at once, compared by what they reached."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.scheduling import QUEUE, program
from typer.testing import CliRunner

from megabiomed.cli import app
from megabiomed.ground.errors import ConfigError, LaunchError
from megabiomed.launch.control import resubmit, save
from megabiomed.launch.scheduler import submit
from megabiomed.launch.sweep import grid, note, read
from megabiomed.launch.sweep_table import best_validation, cells, columns, compared

LR = "--sweep=optimizer.lr=1e-3,2e-3"


def test_every_combination_is_a_run_that_is_named_by_its_values() -> None:
    members = grid(["optimizer.lr=1e-5, 2e-5", "data.mix=[1,2],[3]", "optimizer.beta=0.9"])
    assert [member.label for member in members] == [
        "lr=1e-5_mix=1-2_beta=0.9", "lr=1e-5_mix=3_beta=0.9", "lr=2e-5_mix=1-2_beta=0.9", "lr=2e-5_mix=3_beta=0.9",
    ]  # fmt: skip
    assert members[0].values["data.mix"] == "[1,2]"
    assert members[2].overrides(Path("/runs/s"), "demo") == [
        "optimizer.lr=2e-5", "data.mix=[1,2]", "optimizer.beta=0.9", "name=demo-lr-2e-5_mix-1-2_beta-0.9",
        "run_dir=/runs/s/lr=2e-5_mix=1-2_beta=0.9",
    ]  # fmt: skip
    assert [member.label for member in grid(["a.x=1", "b.x=2"])] == ["a.x=1_b.x=2"]
    assert [member.label for member in grid(["a.t=p/q,p q"])] == ["t=p-q", "t=p-q_2"]
    assert [member.values["s"] for member in grid(["s='a,b',c"])] == ["'a,b'", "c"]


@pytest.mark.parametrize("words", [["lr"], ["lr="], ["lr=1,,2"], ["=1"], ["lr=1", "lr=2"], ["run_dir=a,b"]])
def test_what_is_no_sweep_is_refused(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="--sweep"):
        grid(words)


def test_a_sweep_is_listed_submitted_continued_and_compared(run_file: Path, tmp_path: Path, queue: Any) -> None:
    base, folder = queue(), tmp_path / "sweep"
    words = ["submit", str(run_file), "--cluster", "cpu-test", f"run_dir={folder}", LR, "--sweep-limit", "1"]
    said = CliRunner().invoke(app, [*words, "--dry-run"])
    assert said.exit_code == 0, said.output
    assert "sweep of 2 runs, 1 at once" in said.output
    assert f"optimizer.lr=2e-3: {folder}/lr=2e-3" in said.output
    assert not folder.exists()

    said = CliRunner().invoke(app, words)
    assert said.exit_code == 0, f"{said.output}{said.exception!r}"
    assert [line.rpartition(": ")[2] for line in said.output.splitlines() if line.startswith("submitted")] == [
        "job 7",
        "job 8 (after job 7)",
    ]
    assert "name: " in (folder / "lr=1e-3" / "slurm" / "config.yaml").read_text()
    more = CliRunner().invoke(app, [*words[:-3], "--sweep=optimizer.lr=1e-3,2e-3,3e-3"])
    assert [line.split(":")[0] for line in more.output.splitlines() if ": job" in line] == [
        "in the queue", "in the queue", "submitted",
    ]  # fmt: skip
    assert len([file for file in base.iterdir() if file.name.isdigit()]) == 3

    with pytest.raises(LaunchError, match="is a sweep"):
        save(folder)
    again = list(resubmit(folder, "failed", dry_run=True))
    assert [line.split(":")[0] for line in again] == ["in the queue"] * 3

    figures = {"lr=1e-3": (2.0, 2.5), "lr=2e-3": (1.9, 2.2)}
    for label, (loss, best) in figures.items():
        run = folder / label
        lines = [
            {"step": 5, "validation/loss": best},
            {"step": 9, "validation/loss": 9.0},
            {"step": 9, "train/loss": loss},
        ]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (run / "slurm" / "incarnations.jsonl").write_text('{"kind": "begin", "incarnation": "7.0.1"}\n')
    rows = compared(folder)
    assert [(row["values"]["optimizer.lr"], row["state"], row["loss"], row["validation_loss"]) for row in rows] == [
        ("2e-3", "PENDING", 1.9, 2.2), ("1e-3", "PENDING", 2.0, 2.5), ("3e-3", "PENDING", None, None),
    ]  # fmt: skip
    assert best_validation(folder / "lr=1e-3") == (2.5, 5)
    assert columns(rows)[0] == "optimizer.lr"
    assert cells(rows)[0][0] == "2e-3"
    assert json.loads(CliRunner().invoke(app, ["sweep", str(folder), "--json"]).output) == rows


def test_a_run_of_the_list_that_was_never_submitted_and_a_damaged_list(tmp_path: Path) -> None:
    note(tmp_path, grid(["a=1,2"]))
    assert [row["state"] for row in compared(tmp_path)] == ["not submitted"] * 2
    (tmp_path / "sweep.json").write_text('{"runs": [3]}')
    with pytest.raises(LaunchError, match="is damaged"):
        read(tmp_path)
    with pytest.raises(LaunchError, match="is no sweep"):
        read(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("after", "turn", "words"),
    [
        ([], [], []),
        (["3"], [], ["--dependency=afterok:3", "--kill-on-invalid-dep=yes"]),
        ([], ["4", "5"], ["--dependency=afterany:4:5"]),
        (["3"], ["4"], ["--dependency=afterok:3,afterany:4", "--kill-on-invalid-dep=yes"]),
    ],
)
def test_a_job_waits_for_success_of_some_and_the_end_of_others(
    tools: Path, tmp_path: Path, after: list[str], turn: list[str], words: list[str]
) -> None:
    base = tmp_path / "queue"
    base.mkdir()
    for name in ("squeue", "scancel"):
        program(tools, name, QUEUE.format(base=base, before=":", after=":"))
    program(tools, "sbatch", f'echo "$*" > {tmp_path}/asked; echo 9')
    (tmp_path / "job.sh").write_text("#!/bin/bash\n")
    assert submit(tmp_path / "job.sh", after, {}, turn) == "9"
    assert (tmp_path / "asked").read_text().split()[1:-1] == words
