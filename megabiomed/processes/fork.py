"""Start a Python program as a fork of this process, which has imported what the program needs.

torch, megatron-core and DeepSpeed take five seconds of processor time to import. Ranks that are forked from the command that
checked the run share these modules and their memory.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import runpy
import signal
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import TimeoutExpired

from megabiomed.processes.phases import START

_SAFE_THREADS = {"jemalloc_bg_thd"}  # pyarrow's; jemalloc stops it around a fork by itself
_HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD)
_NAMING_S = 0.2
_POLL_S = 0.01


def can_fork() -> bool:
    """Whether a fork of this process works: it has no other thread and could not have opened a CUDA device.

    A thread does not live on in the child, but the locks that it held do.
    """
    torch = sys.modules.get("torch")
    if not sys.platform.startswith("linux") or (torch is not None and torch.cuda.is_available()):
        return False
    # A thread that has just begun still bears the name of this process.
    deadline = time.monotonic() + _NAMING_S
    while (unsafe := _unsafe_threads()) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return not unsafe


def _unsafe_threads() -> list[str]:
    """Names of the threads of this process, Python's and others, that a fork would lose."""
    names = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # it has just left
            names += [(task / "comm").read_text().strip()] if task.name != str(os.getpid()) else []
    return [name for name in names if name not in _SAFE_THREADS]


class ForkedProcess:
    """A fork of this process, with the part of `subprocess.Popen` that watching it takes.

    Args:
        arguments: what follows `python` on a command line: `-m MODULE ...` or `FILE ...`.
        environment: all variables of the child. Those that a library reads when it is imported come too late.
        stdout: descriptor of its standard output.
        stderr: descriptor of its standard error.
        prepare: called first in the child.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        stdout: int,
        stderr: int,
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        def become() -> None:
            prepare()
            _leave_parent(environment, stdout, stderr)
            _run(arguments)

        self._process = multiprocessing.get_context("fork").Process(target=become)
        # An object that the child collected later would close a descriptor that is another file by then.
        gc.collect()
        # A signal before the child has let go of the parent's handlers would be taken by them, and lost.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code when it was last looked at, negative for a signal; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Its exit code now."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has left.

        Raises:
            subprocess.TimeoutExpired: it still runs after `timeout` seconds.
        """
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise TimeoutExpired(f"process {self.pid}", timeout or 0.0)
            time.sleep(_POLL_S)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has left."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to leave."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


def _leave_parent(environment: Mapping[str, str], stdout: int, stderr: int) -> None:
    """Let go of what is the parent's: session, handlers, files, variables, and what modules keep about their process."""
    os.setsid()
    for number in _HANDLED:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
    _redirect(stdout, stderr)
    os.environ.clear()
    os.environ.update(environment)
    START.restart()
    threads = environment.get("OMP_NUM_THREADS", "")
    if (torch := sys.modules.get("torch")) is not None and threads.isdecimal():
        torch.set_num_threads(int(threads))


def _redirect(stdout: int, stderr: int) -> None:
    """Standard streams of its own, written line by line; what else the parent has open is closed."""
    streams = [os.open(os.devnull, os.O_RDONLY), os.dup(stdout), os.dup(stderr)]
    for number, source in enumerate(streams):
        os.dup2(source, number)
    # Among them are the pipes of other ranks, whose readers would wait for this process too.
    os.closerange(3, max(int(number) for number in os.listdir("/proc/self/fd")) + 1)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)


def _run(arguments: Sequence[str]) -> None:
    if arguments[0] == "-m":
        sys.argv = list(arguments[1:])
        # The module may have been imported by the parent; it runs again, as the main one.
        warnings.filterwarnings("ignore", category=RuntimeWarning, module="runpy")
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        return
    sys.argv = list(arguments)
    sys.path.insert(0, str(Path(arguments[0]).parent))
    runpy.run_path(arguments[0], run_name="__main__")
