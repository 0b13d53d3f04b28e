"""Stop requests of real signals in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import signal, sys
from megabiomed.processes.signals import StopFlag
stop = StopFlag()
assert "torch" not in sys.modules  # a request during the long imports must not be lost
for number in map(int, sys.argv[1:]):
    signal.raise_signal(number)
print(stop.received)
"""


def after(*numbers: signal.Signals) -> subprocess.CompletedProcess[str]:
    arguments = [str(int(number)) for number in numbers]
    return subprocess.run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_one_request_is_remembered_and_nothing_dies(number: signal.Signals) -> None:
    done = after(number)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == number.name


def test_a_scheduler_may_ask_twice() -> None:
    assert after(signal.SIGTERM, signal.SIGTERM).returncode == 0
    assert after(signal.SIGUSR1, signal.SIGTERM).stdout.strip() == "SIGTERM"


def test_a_second_interrupt_ends_at_once() -> None:
    assert after(signal.SIGINT, signal.SIGINT).returncode == -signal.SIGINT


CONTROLS = """
import os, sys, time
from pathlib import Path
from megabiomed.processes.signals import LATER, LOGS, STOP_AT, WARNED, Request, StopFlag
run, stage = Path(sys.argv[1], "run"), Path(sys.argv[1], "run", "stage")
(run / "control").mkdir(parents=True)
(stage / "control").mkdir(parents=True)
stop = StopFlag()
for folder in (stage, run, run):
    stop.watch(folder)
assert stop.mine() == Request.NONE
(run / "control" / "save").touch()
stop.requests_are_mine = lambda: False  # a later start has the run: its requests stay for it
assert stop.mine() == Request.NONE and (run / "control" / "save").exists()
stop.requests_are_mine = lambda: True
assert (stop.mine(), stop.mine()) == (Request.SAVE, Request.NONE)
(stage / "control" / "end").touch()
(run / "control" / "save").touch()
assert (stop.mine(), stop.received) == (Request.END, "kill switch")
os.environ[STOP_AT] = str(time.time() + 3600)
assert StopFlag().mine() == Request.NONE
os.environ[STOP_AT] = str(time.time() - 1)
late = StopFlag()
assert (late.mine(), late.received) == (Request.STOP, "time limit")
os.environ[LOGS] = sys.argv[1]
(Path(sys.argv[1]) / LATER).write_text(str(time.time() + 3600))  # an operator has extended the limit
assert StopFlag().mine() == Request.NONE
(Path(sys.argv[1]) / LATER).write_text("")
assert StopFlag().mine() == Request.STOP
os.environ["RANK"] = "1"  # on a node whose clock may be wrong
(Path(sys.argv[1]) / WARNED).touch()
assert StopFlag().mine() == Request.NONE
os.environ["RANK"] = "0"
del os.environ[STOP_AT]
missed = StopFlag()
assert (missed.mine(), missed.received) == (Request.STOP, "warning to the job")
"""


def test_files_of_the_run_and_of_its_stage_and_the_clock_ask_too(tmp_path: Path) -> None:
    """The clock is the second net: SLURM's own warning came up to 27 s late."""
    done = subprocess.run([sys.executable, "-c", CONTROLS, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
