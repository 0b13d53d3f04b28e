"""Runs that are killed, run out of disk or lose their storage go on, or end with an error, and never lose a checkpoint."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.runs import events, losses

from megabiomed.checkpoint.catalog import latest_valid

TESTS = Path(__file__).parents[1]
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.timeout(400)
def test_runs_that_are_killed_again_and_again_end_as_if_nothing_had_happened() -> None:
    """The short form of `make test-crash`."""
    words = ["--kills", "10", "--kills-per-run", "5", "--steps", "24"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "support.crash", *words],
        cwd=TESTS,
        capture_output=True,
        text=True,
        timeout=380,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    tally = json.loads(done.stdout[done.stdout.index("{") :])
    assert tally["kills"] == 10
    assert tally["survivors_killed"] == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB: one checkpoint of the tiny model fits, a second does not."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.timeout(300)
def test_a_disk_that_is_full_for_a_while_costs_the_run_nothing(
    run_file: Path, command: Command, tmp_path: Path, small_disk: Path
) -> None:
    run_dir = small_disk / "r"
    command("pretrain", run_file, f"run_dir={tmp_path / 'whole'}")
    words = ["pretrain", str(run_file), f"run_dir={run_dir}", "checkpoint.save_every=1"]
    run = subprocess.Popen(
        [sys.executable, "-m", "megabiomed.cli", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    file = run_dir / "events.jsonl"
    while not (file.is_file() and "save_failed" in file.read_text()):
        assert run.poll() is None, run.communicate()[0]
        time.sleep(0.05)
    before, _ = latest_valid(run_dir / "checkpoints", "hash")
    assert before is not None
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    said, _ = run.communicate(timeout=200)
    assert run.returncode == 0, said
    assert "No space left on device" in said
    assert "at risk: 1 steps since the newest checkpoint" in said
    assert losses(run_dir) == losses(tmp_path / "whole")
    kept, _ = latest_valid(run_dir / "checkpoints", "hash")
    assert kept is not None
    assert kept.step == 6
    assert before.step in [event["step"] for event in events(run_dir) if event["event"] == "save"]
    assert [path.name for path in (run_dir / "checkpoints").iterdir() if ".tmp-" in path.name] == []


@pytest.mark.timeout(200)
def test_a_file_size_limit_is_an_error_of_the_save_that_met_it(run_file: Path, tmp_path: Path) -> None:
    """A quota without root: the kernel cuts the write short (EFBIG), in the thread that saves; no step may go unsaved."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    command = [sys.executable, "-m", "megabiomed.cli", "pretrain", str(run_file), f"run_dir={tmp_path / 'r'}"]
    settings = ["checkpoint.save_every=2", "checkpoint.max_unsaved_steps=0"]
    done = subprocess.run(
        [*command, *settings], preexec_fn=limited, capture_output=True, text=True, timeout=150,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 1, done.stderr[-3000:]
    assert "was not written" in done.stderr
    assert "File too large" in done.stderr
    assert events(tmp_path / "r")[-1]["event"] == "failed"
    assert max(losses(tmp_path / "r")) < 6
    assert not list((tmp_path / "r").rglob("step_*"))


@pytest.mark.timeout(200)
def test_a_read_only_folder_is_refused_before_the_first_step(run_file: Path, command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    if os.geteuid() == 0:  # root writes everywhere but here
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)], capture_output=True)
        if mounted.returncode:
            pytest.skip("a folder that root cannot write needs mount")
    else:
        folder.chmod(0o555)
    try:
        failed = command("pretrain", run_file, f"run_dir={folder / 'r'}", code=2)
    finally:
        if os.geteuid() == 0:
            subprocess.run(["umount", "-l", str(folder)], check=True)
    assert str(folder) in failed.stderr
    assert "cannot be written" in failed.stderr
    assert "Traceback" not in failed.stderr
