"""The launcher with small real workers: environment, logs, whose error is shown, and that nobody is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from megabiomed.ground.errors import UserError, WorkerError
from megabiomed.processes import local
from megabiomed.processes.local import run_workers, under_launcher
from megabiomed.processes.terminal import Echo

pytestmark = pytest.mark.timeout(60)

ROOT = Path(__file__).parents[2]

WORKER = """
import os, signal, sys, time
from pathlib import Path
from megabiomed.processes.local import write_error
rank = int(os.environ["RANK"])
def leave(text, code):
    write_error(Path(os.environ["MEGABIOMED_ERROR_FILE"]), text)
    os._exit(code)
def sleep_until_ended():
    Path(sys.argv[1], f"pid_{rank}").write_text(str(os.getpid()))
    while True:
        time.sleep(0.05)
def wait_for(name):
    while not Path(sys.argv[1], name).exists():
        time.sleep(0.02)
"""


@pytest.fixture(params=[True, False], ids=["forked", "new"])
def launch(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Runs a body of worker code as ranks; returns the log folder."""
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    monkeypatch.syspath_prepend(tmp_path)  # what Python does with that variable when it starts
    # pytest's process may have other threads, of torch or of a worker of pytest-xdist; these ranks need none of them.
    monkeypatch.setattr(local, "can_fork", lambda: request.param)

    def run(body: str, world: int = 2) -> Path:
        (tmp_path / "small_worker.py").write_text(WORKER + body)
        run_workers("small_worker", [str(tmp_path)], world, tmp_path / "logs")
        return tmp_path / "logs"

    return run


def test_every_rank_knows_its_place_and_writes_its_log(launch, capfd: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    names = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR"]
    logs = launch(f"print(*[os.environ[n] for n in {names}]); print('aside', file=sys.stderr)")
    assert sorted((logs / "rank_0.log").read_text().splitlines()) == ["0 0 2 127.0.0.1", "aside"]
    assert sorted((logs / "rank_1.log").read_text().splitlines()) == ["1 1 2 127.0.0.1", "aside"]
    # Only rank 0 speaks to the terminal, and its warnings stay in the log.
    assert capfd.readouterr().out == "0 0 2 127.0.0.1\n"


def test_threads_are_shared_out_unless_the_user_chose(launch, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    body = "print(os.environ['OMP_NUM_THREADS'])"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert (launch(body) / "rank_1.log").read_text() == "3\n"
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert (launch(body) / "rank_1.log").read_text().splitlines()[-1] == str(max(1, (os.cpu_count() or 1) // 2))


def test_the_first_error_is_shown_and_the_others_are_ended(launch, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    body = """
if rank == 1:
    wait_for("pid_2")
    leave("the real cause", 1)
if rank == 0:
    wait_for("logs/rank_1.error")
    leave("connection to rank 1 lost", 1)
sleep_until_ended()
"""
    with pytest.raises(WorkerError, match="rank 1 failed\nthe real cause"):
        launch(body, world=3)
    assert not psutil.pid_exists(int((tmp_path / "pid_2").read_text()))


def test_wrong_input_found_by_a_worker_is_a_user_error(launch) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=r"^no such store$"):
        launch("leave('no such store\\n', 2)")


def test_a_signal_that_killed_a_worker_is_named(launch) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(WorkerError, match="rank 1 was killed by SIGSEGV"):
        launch("if rank == 1: os.kill(os.getpid(), signal.SIGSEGV)\nsleep_until_ended()")


def test_an_abort_is_not_taken_for_the_cause_when_another_rank_says_why(launch) -> None:  # type: ignore[no-untyped-def]
    body = """
if rank == 1:
    leave("the real cause", 1)
wait_for("logs/rank_1.error")
os.abort()
"""
    with pytest.raises(WorkerError, match="the real cause"):
        launch(body)


def test_a_worker_without_an_error_file_is_shown_by_its_last_lines(launch) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(WorkerError, match="ZeroDivisionError"):
        launch("1 / 0")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_stop_signals_reach_the_workers_and_are_waited_for(launch, tmp_path: Path, number: signal.Signals) -> None:  # type: ignore[no-untyped-def]
    body = f"""
def save(*_):
    time.sleep(0.3)
    Path(sys.argv[1], f"saved_{{rank}}").touch()
    os._exit(0)
signal.signal({int(number)}, save)
sleep_until_ended()
"""
    ready = threading.Thread(target=_signal_when_ready, args=(tmp_path, number))
    ready.start()
    before = signal.getsignal(number)
    launch(body)
    ready.join()
    assert (tmp_path / "saved_0").exists()
    assert (tmp_path / "saved_1").exists()
    assert signal.getsignal(number) is before


def test_a_request_during_the_start_reaches_the_later_workers_too(  # type: ignore[no-untyped-def]
    launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask_after_the_first(start: Callable[..., Any]) -> Callable[..., Any]:
        def begin(arguments: list[str], environment: dict[str, str], *more: Any) -> Any:
            process = start(arguments, environment, *more)
            rank = environment["RANK"]
            while not (tmp_path / f"pid_{rank}").exists():  # its handler is installed
                threading.Event().wait(0.02)
            if rank == "0":
                signal.raise_signal(signal.SIGUSR1)
            return process

        return begin

    for name in ("_fork", "_spawn"):
        monkeypatch.setattr(local, name, ask_after_the_first(getattr(local, name)))
    launch(
        "signal.signal(signal.SIGUSR1, lambda *_: (Path(sys.argv[1], f'saved_{rank}').touch(), os._exit(0)))\n"
        "sleep_until_ended()"
    )
    assert len(list(tmp_path.glob("saved_*"))) == 2


def _signal_when_ready(folder: Path, number: signal.Signals) -> None:
    while not all((folder / f"pid_{rank}").exists() for rank in (0, 1)):
        threading.Event().wait(0.02)
    os.kill(os.getpid(), number)


def test_torchrun_and_srun_are_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "SLURM_PROCID", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    assert not under_launcher()
    monkeypatch.setenv("SLURM_PROCID", "0")  # an interactive allocation alone is no launch
    assert not under_launcher()
    monkeypatch.setenv("MASTER_ADDR", "node1")
    assert under_launcher()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full of Linux")
def test_a_log_on_a_full_disk_keeps_no_line_from_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    read, write = os.pipe()
    echo = Echo(os.fdopen(read, "rb"), Path("/dev/full"))
    with os.fdopen(write, "wb") as worker:
        worker.write(b"one\ntwo\n")
    echo.join(20)
    assert capsys.readouterr().out == "one\ntwo\n"


@pytest.mark.skipif(sys.platform != "linux", reason="pseudo terminals of Linux")
def test_a_terminal_gets_the_same_lines_and_a_bar(tmp_path: Path) -> None:
    import pty

    (tmp_path / "w.py").write_text("for i in (1, 2): print(f'step: {i}/2 loss: 1.0', flush=True)")
    imports = "from megabiomed.processes.local import run_workers; from pathlib import Path"
    code = f"{imports}; run_workers('w', [], 1, Path({str(tmp_path)!r}))"
    leader, follower = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "TERM": "xterm"}
    with subprocess.Popen([sys.executable, "-c", code], stdout=follower, stderr=follower, env=environment) as process:
        os.close(follower)
        shown = b""
        try:
            while chunk := os.read(leader, 4096):
                shown += chunk
        except OSError:  # Linux reports the end of a pseudo terminal as an input/output error
            pass
    os.close(leader)
    assert process.returncode == 0, shown
    assert b"step: 2/2 loss: 1.0" in shown
    assert b"2/2" in shown.replace(b"step: 2/2", b"")
    assert (tmp_path / "rank_0.log").read_text() == "step: 1/2 loss: 1.0\nstep: 2/2 loss: 1.0\n"
