"""A run that stops advancing ends by itself and says which rank is to blame."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from megabiomed.launch.hang_page import write_page

pytestmark = pytest.mark.timeout(240)


def test_a_frozen_rank_is_named_and_the_run_ends(run_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "r"
    words = ["pretrain", str(run_file), f"run_dir={run}", "train.steps=100000", "train.hang_timeout_s=6"]
    process = subprocess.Popen(
        [sys.executable, "-m", "megabiomed.cli", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step: 3/"):
            break
    workers = [child for child in psutil.Process(process.pid).children() if child.environ().get("RANK") == "1"]
    workers[0].send_signal(signal.SIGSTOP)
    began = time.monotonic()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "the run hung: rank 1: no answer" in said
    assert time.monotonic() - began < 60
    (page,) = run.glob("logs/*/hang.md")
    text = page.read_text()
    assert "rank 1: **no answer**" in text
    assert "training step" in text
    assert "megabiomed/train/loop.py" in text  # the stack


def report(folder: Path, rank: int, place: str, step: int = 7) -> None:
    stacks = f'Thread 0x1 (most recent call first):\n  File "/x/megabiomed/engine/zero.py", line 9 in {place}\n'
    values = {"rank": rank, "host": f"n{rank}", "what": "training step", "step": step, "samples": [[0, 0, rank]],
              "stacks": stacks, "collectives": None}  # fmt: skip
    (folder / f"hang_rank_{rank}.json").write_text(json.dumps(values))


def test_the_rank_that_stands_elsewhere_comes_first(tmp_path: Path) -> None:
    for rank, place in enumerate(["all_reduce", "all_reduce", "read_store", "all_reduce"]):
        report(tmp_path, rank, place)
    page = write_page(tmp_path, 4)
    assert page is not None
    lines = page.read_text().splitlines()
    assert lines[2].startswith("- rank 2 on n2: **elsewhere**: training step, step 7")
    assert "read_store" in lines[2]
    assert lines[3].startswith("- 3 of 4 ranks wait at")


def test_no_page_without_reports(tmp_path: Path) -> None:
    assert write_page(tmp_path, 2) is None
