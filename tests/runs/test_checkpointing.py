"""When a run saves, what it keeps, and what it says when it goes on with other settings."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.runs import events

Command = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = pytest.mark.timeout(240)


def kept(run_dir: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step_")) for path in (run_dir / "checkpoints").iterdir())


def test_permanent_checkpoints_stay_and_ephemeral_ones_make_room(
    run_file: Path, command: Command, tmp_path: Path
) -> None:
    intervals = ["checkpoint.save_every=1", "checkpoint.keep_last=1", "checkpoint.keep_every=2"]
    command("pretrain", run_file, f"run_dir={tmp_path / 'r'}", *intervals, "train.steps=5")
    assert [event["step"] for event in events(tmp_path / "r") if event["event"] == "save"] == [1, 2, 3, 4, 5]
    assert kept(tmp_path / "r") == [2, 4, 5]


def test_a_run_saves_by_the_clock_and_goes_on_with_another_batch_size(
    run_file: Path, command: Command, tmp_path: Path
) -> None:
    run_dir = f"run_dir={tmp_path / 'r'}"
    command("pretrain", run_file, run_dir, "checkpoint.save_every_minutes=1e-6", "train.stop_after=3")
    assert [event["step"] for event in events(tmp_path / "r") if event["event"] == "save"] == [1, 2, 3]
    resumed = command("pretrain", run_file, run_dir, "data.global_batch_size=4", "checkpoint.verify=hash")
    assert "global_batch_size: 8 -> 4: no sample is repeated or skipped" in resumed.stdout
    assert "data order: identical from sample 24 on" in resumed.stdout
    assert "loaded: " in resumed.stdout
    last = events(tmp_path / "r")[-1]
    assert (last["event"], last["step"], last["sample"]) == ("finished", 6, 24 + 3 * 4)
