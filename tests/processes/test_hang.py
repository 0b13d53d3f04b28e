"""A run that stops advancing ends by itself and says which rank is to blame."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path

import psutil
import pytest
from support.started import Started

from megabiomed.processes.hang_page import suspects, write_page

pytestmark = pytest.mark.timeout(240)


def test_ranks_that_were_suspended_go_on_and_one_that_stays_frozen_is_named_and_ends_the_run(
    run_file: Path, tmp_path: Path
) -> None:
    run = tmp_path / "r"
    words = ["pretrain", str(run_file), f"run_dir={run}", "train.steps=100000", "train.hang_timeout_s=5"]
    started = Started(words, tmp_path)
    started.wait_for("step: 3/")
    workers = sorted(psutil.Process(started.pid).children(), key=lambda worker: worker.pid)
    for worker in workers:  # as a paused machine or `scontrol suspend` stops all of them
        worker.send_signal(signal.SIGSTOP)
    time.sleep(7)
    for worker in workers:
        worker.send_signal(signal.SIGCONT)
    logs = [next(run.glob(f"logs/*/rank_{rank}.log")) for rank in (0, 1)]
    while not all("suspended: rank" in log.read_text() for log in logs):
        assert started.runs()
        time.sleep(0.05)
    assert not list(run.glob("logs/*/hang_rank_*.json"))
    workers[1].send_signal(signal.SIGSTOP)
    code, _, said = started.finish(timeout_s=90)  # long before collective operations time out
    assert code == 1
    assert "the run hung: rank 1: no answer" in said
    (page,) = run.glob("logs/*/hang.md")
    text = page.read_text()
    assert "rank 1: **no answer**" in text
    assert "training step" in text
    assert "megabiomed/runs/trainer.py" in text  # the stack
    assert "rank 0 of pp 0/1 x dp 0/1 x tp 0/2" in text
    assert re.search(r"^    WAITS  .*: gloo:\w+ \d+ of \[", text, re.MULTILINE)  # torch's flight recorder
    assert re.search(r"^    done  .*: gloo:\w+ \d+ of ", text, re.MULTILINE)


def report(folder: Path, rank: int, place: str, number: int = 0, late: float = 0.2) -> None:
    stacks = f'Thread 0x1 (most recent call first):\n  File "/x/megabiomed/engine/zero.py", line 9 in {place}\n'
    last = {
        "name": "all_reduce",
        "number": number,
        "group": "DATA 4",
        "shape": "[8] Float",
        "kind": "collective",
        "done": place == "read_store",
    }
    values = {"rank": rank, "late_s": late, "host": f"n{rank}", "what": "training step", "step": 7, "samples": [[0, 0, rank]],
              "place": "run, rank 1", "stacks": stacks, "collectives": [last] if number else None}  # fmt: skip
    (folder / f"hang_rank_{rank}.json").write_text(json.dumps(values))


def test_the_rank_that_stands_elsewhere_comes_first_and_what_it_did_not_join(tmp_path: Path) -> None:
    for rank, place in enumerate(["all_reduce", "all_reduce", "read_store", "all_reduce"]):
        report(tmp_path, rank, place, 41 if rank == 2 else 42)
    page = write_page(tmp_path, 4)
    assert page is not None
    lines = page.read_text().splitlines()
    assert lines[2].startswith("- rank 2 on n2: **elsewhere**: training step, step 7")
    assert "read_store" in lines[2]
    assert lines[3].startswith("- 3 of 4 ranks wait at")
    assert lines[5] == "* group DATA 4: ranks 0, 1, 3 wait in all_reduce 42 of [8] Float"
    assert lines[6] == "* group DATA 4: **rank 2 is behind**: its last is all_reduce 41 of [8] Float"
    assert lines[8].startswith("## rank 2")
    assert suspects(page).startswith("the run hung: rank 2 on n2: elsewhere")


def test_a_rank_that_was_stopped_and_wakes_up_at_the_end_gave_no_answer_in_time(tmp_path: Path) -> None:
    for rank in range(4):
        report(tmp_path, rank, "all_reduce", late=6.5 if rank == 3 else 0.2)
    page = write_page(tmp_path, 4)
    assert page is not None
    assert page.read_text().splitlines()[2].startswith("- rank 3: **no answer** in time, but 6.5 s late")
    assert "- 3 of 4 ranks wait at" in page.read_text()


def test_a_page_about_many_ranks_stays_short(tmp_path: Path) -> None:
    for rank in range(100):
        report(tmp_path, rank, "all_reduce", 42)
    page = write_page(tmp_path, 120)
    assert page is not None
    assert len(page.read_text().splitlines()) < 400
    assert "and 13 more" in suspects(page)
    assert "ranks 0, 1, 2, 3, 4, 5, 6, 7 and 92 more wait in" in page.read_text()


def test_a_recorder_that_does_not_answer_costs_no_report(tmp_path: Path) -> None:
    report(tmp_path, 0, "all_reduce")
    page = write_page(tmp_path, 1)
    assert page is not None
    assert "flight recorder did not answer" in page.read_text()


def test_no_page_without_reports(tmp_path: Path) -> None:
    assert write_page(tmp_path, 2) is None
