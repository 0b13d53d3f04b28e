"""When a run saves, what it keeps, and what it says when it goes on with other settings."""

from __future__ import annotations

import math
import re
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
    changes = ["data.global_batch_size=4", "optimizer.lr=0.002", "train.log_every=2", "checkpoint.verify=hash"]
    resumed = command("pretrain", run_file, run_dir, *changes)
    assert re.findall("^changed: .*", resumed.stdout, re.M) == ["changed: optimizer.lr: 0.003 -> 0.002"]
    told = [event for event in events(tmp_path / "r") if event["event"] == "resume"]
    assert told[0]["changed"] == ["optimizer.lr: 0.003 -> 0.002"]
    assert "global_batch_size: 8 -> 4: no sample is repeated or skipped" in resumed.stdout
    assert "data order: identical from sample 24 on" in resumed.stdout
    assert "loaded: " in resumed.stdout
    last = events(tmp_path / "r")[-1]
    assert (last["event"], last["step"], last["sample"]) == ("finished", 6, 24 + 3 * 4)


def test_a_run_of_epochs_ends_when_its_samples_are_consumed(run_file: Path, command: Command, tmp_path: Path) -> None:
    words = (
        "pretrain", run_file, f"run_dir={tmp_path / 'r'}", "train.steps=null", "train.epochs=0.5", "train.eval_samples=1",
        "parallel.tensor_parallel_size=1",
    )  # fmt: skip
    command(*words, "data.global_batch_size=4", "train.stop_after=2")
    resumed = command(*words, "data.global_batch_size=16", "data.micro_batch_size=4")
    found = re.search(r"length: .* epochs of ([\d,]+) samples", resumed.stdout)
    assert found is not None
    wanted = math.ceil(0.5 * int(found[1].replace(",", "")))
    last = events(tmp_path / "r")[-1]
    assert last["event"] == "finished"
    assert wanted <= last["sample"] < wanted + 16
    assert f"length now: {last['step']} steps in all" in resumed.stdout
