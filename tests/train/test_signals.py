"""Stop requests of real signals in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

SCRIPT = """
import signal, sys
from megabiomed.train.signals import StopFlag
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
