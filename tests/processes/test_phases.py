"""The phases of a start add up to the time since the command."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from megabiomed.processes.phases import STARTED, Phases, process_started, since_boot


def test_phases_are_counted_from_the_command_on() -> None:
    phases = Phases(started=12.0, command=10.0)
    phases.ended("imports", 15.0)
    phases.ended("groups", 16.0)
    phases.ended("imports", 20.0)
    assert phases.seconds == {"command": 2.0, "imports": 7.0, "groups": 1.0}
    assert phases.lines() == ["start, command: 2.0 s", "start, imports: 7.0 s", "start, groups: 1.0 s", "start: 10.0 s"]


def test_without_a_command_they_are_counted_from_the_process_on() -> None:
    phases = Phases(started=12.0)
    phases.ended("imports", 15.0)
    assert phases.seconds == {"imports": 3.0}


def test_a_start_is_over_once() -> None:
    phases = Phases(started=since_boot())
    assert phases.finish("first step")
    before = dict(phases.seconds)
    assert not phases.finish("first step")
    phases.ended("weights")
    assert phases.seconds == before


def test_a_process_knows_when_it_and_its_command_started() -> None:
    script = "from megabiomed.processes.phases import START; START.ended('imports'); print(START.seconds)"
    before = since_boot()
    told = {**os.environ, STARTED: str(before - 100)}
    done = subprocess.run([sys.executable, "-c", script], env=told, capture_output=True, text=True, check=True)
    seconds = eval(done.stdout)
    assert list(seconds) == ["command", "imports"]
    assert seconds["command"] == pytest.approx(
        100, abs=since_boot() - before + 0.1
    )  # the kernel's clock ticks 100 times a second
    assert 0 <= process_started() <= before
