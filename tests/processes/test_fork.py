"""Programs that run as forks: their own variables, files, signals and exit codes, and nothing of the parent's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.zygote import run_python, start_python

from megabiomed.processes import fork

pytestmark = pytest.mark.timeout(60)

TOLD = """
import json, os, signal, sys, torch
from megabiomed.processes.phases import START
print(json.dumps({
    "argv": sys.argv[1:], "name": __name__, "mine": os.environ.get("MINE"), "home": os.environ.get("HOME"),
    "files": len(os.listdir("/proc/self/fd")), "leads": os.getsid(0) == os.getpid(), "threads": torch.get_num_threads(),
    "term": signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "phases": list(START.seconds),
}))
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return tmp_path / "program.py"


def environment(**more: str) -> dict[str, str]:
    """Variables with which a program may be forked."""
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def test_a_fork_is_a_process_of_its_own(program: Path) -> None:
    program.write_text(TOLD)
    variables = environment(MINE="yes")
    del variables["HOME"]
    done = run_python([str(program), "a", "b"], variables, timeout_s=50)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["files"] <= 5  # three streams, the folder that is listed, and multiprocessing's
    del told["files"]
    assert told == {
        "argv": ["a", "b"], "name": "__main__", "mine": "yes", "home": None, "leads": True, "threads": 1, "term": True,
        "phases": [],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("pass", 0, ""),
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit('no')", 1, "no"),
        ("raise ValueError('broken')", 1, "ValueError: broken"),
        ("import os; os._exit(7)", 7, ""),
        ("import os; os.kill(os.getpid(), 9)", -9, ""),
    ],
)
def test_a_fork_ends_as_a_python_of_its_own_would(program: Path, body: str, code: int, said: str) -> None:
    program.write_text(body)
    forked = run_python([str(program)], environment(), timeout_s=50)
    apart = subprocess.run([sys.executable, str(program)], env=environment(), capture_output=True, text=True)
    assert (forked.returncode, apart.returncode) == (code, code)
    assert said in forked.stderr
    assert said in apart.stderr


def test_a_fork_that_does_not_leave_is_waited_for_and_ended(program: Path, tmp_path: Path) -> None:
    program.write_text("import time; time.sleep(1000)")
    process = start_python([str(program)], environment(), tmp_path / "out", tmp_path / "err")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.1)
    process.kill()
    assert process.wait(20) == -signal.SIGKILL


def test_a_process_with_another_thread_is_not_forked() -> None:
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait, name="reader")
    thread.start()
    try:
        assert not fork.can_fork()
    finally:
        ended.set()
        thread.join()
