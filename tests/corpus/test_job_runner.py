"""Jobs on an engine: each result is made once, whoever began; errors arrive as they are; what cannot move is given up."""

from __future__ import annotations

import builtins
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from megabiomed.cli import app
from megabiomed.corpus.job_folder import JobFolder
from megabiomed.corpus.job_runner import EngineRunner, Task
from megabiomed.corpus.job_step import JobStep
from megabiomed.corpus.pool import count_work
from megabiomed.ground.errors import ConfigError, DataError, LaunchError, WorkerError

MADE: list[int] = []


def square(number: int) -> int:
    MADE.append(number)
    count_work(number)
    if number == 13:
        raise DataError("number 13 is wrong", got=number, do="leave it out")
    if number == 14:
        raise ZeroDivisionError("14")
    if number == 15:
        raise OSError(28, "No space left on device", "/disk/part")
    return number * number


def killed_once(marker: Path) -> str:
    """The first time, the process is killed as by Linux's out-of-memory killer."""
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return marker.name


def longer_than_a_look(number: int) -> int:
    time.sleep(1.0)
    return number


class Here:
    """An engine that does a few jobs in this process at each start; what it is asked is kept."""

    poll_s = settle_s = 0.0

    def __init__(self, each: int = 2, interrupt: bool = False) -> None:
        self.each, self.interrupt = each, interrupt
        self.asked: list[str] = []

    def start(self, task: Task) -> None:
        self.asked.append("start")
        step = JobStep(task.function, task.jobs, task.folder)
        left = [number for number in range(len(task.jobs)) if not task.folder.has(number)]
        for number in left[: self.each]:
            try:
                step(None, number, len(task.jobs))
            except Exception:
                return
        if self.interrupt:
            raise KeyboardInterrupt

    def running(self, task: Task) -> bool:
        return False

    def stop(self, task: Task) -> None:
        self.asked.append("stop")

    def interrupted(self, task: Task) -> None:
        self.asked.append("interrupted")

    def close(self) -> None:
        self.asked.append("close")

    def lost(self, task: Task) -> WorkerError:
        return WorkerError("nothing moves")


def test_rounds_go_on_while_each_brings_results_and_none_is_made_twice(tmp_path: Path) -> None:
    MADE.clear()
    engine, seen = Here(), list[tuple[int, int]]()
    runner = EngineRunner(tmp_path, engine, 1)
    with pytest.raises(KeyboardInterrupt):
        EngineRunner(tmp_path, Here(interrupt=True), 1)(square, range(5))
    results = runner(square, range(5), on_progress=lambda done, amount, _size: seen.append((done, amount)))
    assert (results, MADE) == ([0, 1, 4, 9, 16], [0, 1, 2, 3, 4])
    assert (seen[-1], engine.asked[:3]) == ((5, 10), ["start", "stop", "start"])
    assert runner(square, range(3)) == [0, 1, 4], "other jobs of the same function"
    again = EngineRunner(tmp_path, Here(each=9), 1)
    assert (again(square, range(5), anew=True), MADE[-5:]) == ([0, 1, 4, 9, 16], [0, 1, 2, 3, 4])
    with pytest.raises(WorkerError, match="nothing moves"):
        EngineRunner(tmp_path, Here(each=0), 1)(square, range(2))


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (13, DataError, "number 13 is wrong: got 13; leave it out"),
        (14, WorkerError, r"job 1 failed on .*ZeroDivisionError: 14.*failures/00001\.json"),
        (15, OSError, "No space left on device: '/disk/part'"),
    ],
)
def test_the_error_of_a_job_ends_the_others_and_is_raised_as_it_is(
    tmp_path: Path, number: int, kind: type[Exception], words: str
) -> None:
    engine = Here(each=9)
    for _ in range(2):  # it is forgotten by the next try, which meets it again
        with pytest.raises(kind, match=words):
            EngineRunner(tmp_path, engine, 1)(square, [1, number, 2])
    assert engine.asked == ["start", "stop"] * 2


def test_a_note_that_is_written_at_this_moment_does_not_end_the_build(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path, 2)
    folder.prepare()
    (tmp_path / "progress" / "00000").write_text("")
    (tmp_path / "progress" / "00001").write_text("7 70")
    (tmp_path / "results" / ".00000.pickle.ab12").write_text("{")
    assert (folder.counted(), folder.done()) == ((7, 70), set())


def test_an_executor_of_datatrove_starts_a_job_again_whose_worker_was_killed(tmp_path: Path) -> None:
    pytest.importorskip("datatrove")
    from megabiomed.corpus.local_engine import LocalEngine

    markers = [tmp_path / "done" / name for name in ("a", "b", "c")]
    markers[0].parent.mkdir()
    markers[0].touch()
    markers[2].touch()
    with EngineRunner(tmp_path / "jobs", LocalEngine(), 2) as runner:
        assert runner(killed_once, markers) == ["a", "b", "c"]
        assert runner(square, [2, 3]) == [4, 9]
        assert runner(longer_than_a_look, [1]) == [1]


def build(*words: str) -> BaseException | None:
    return CliRunner().invoke(app, ["corpus", "build", "a.jsonl", "--output", "c", *words]).exception


def test_what_an_engine_lacks_is_said_before_anything_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for words in (["--on", "slurm"], ["--cluster", "cpu-test"], ["--on", "local", "--cluster", "cpu-test"]):
        with pytest.raises(ConfigError, match="--on slurm and --cluster belong together"):
            raise build(*words) or AssertionError
    pytest.importorskip("datatrove")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LaunchError, match="sbatch is not installed here; run this on a login node of the cluster"):
        raise build("--on", "slurm", "--cluster", "cpu-test") or AssertionError
    monkeypatch.setattr(builtins, "__import__", without_datatrove(builtins.__import__))
    with pytest.raises(ConfigError, match=r"pip install \"megabiomed\[corpus-cluster\]\""):
        raise build("--on", "local") or AssertionError


def without_datatrove(real: Callable[..., Any]) -> Callable[..., Any]:
    def load(name: str, *arguments: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "datatrove":
            raise ImportError(name)
        return real(name, *arguments, **options)

    return load
