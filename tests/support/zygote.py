"""One Python that has done the slow imports and from which tests fork their processes: `python -m support.zygote`.

Half a second instead of five for each rank and each command. What a test says about imports, packaging or a fresh interpreter
starts a Python of its own.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from megabiomed.processes.fork import ForkedProcess, can_fork
from megabiomed.processes.platform import has_cuda

_FIXED = ("PYTHONHASHSEED", "TRITON_INTERPRET", "OMP_NUM_THREADS")
"""Variables that are read when something is imported."""
_SLOW = ("torch._dynamo", "torch.distributed.pipelining", "megabiomed.engine.build", "megabiomed.runs.kinds")
"""What ranks and commands import at some time."""


def _serve() -> NoReturn:
    """Fork what each line of standard input asks for; write a line with its number, and one with its exit code.

    The number is the zygote's own: a process id comes again within one run of the tests, where threads use them up.
    """
    for name in _SLOW:
        import_module(name)
    import_module("megabiomed.engine.zero")
    import_module("megabiomed.engine.deepspeed_settings").import_deepspeed()
    assert can_fork(), "an import started a thread"
    requests, answers = os.dup(0), os.dup(1)
    os.dup2(2, 1)  # no import may write between the answers
    running: dict[int, ForkedProcess] = {}
    started, pending = 0, b""

    def answer(**what: Any) -> None:
        os.write(answers, json.dumps(what).encode() + b"\n")

    while True:
        if select.select([requests], [], [], 0.02 if running else None)[0]:
            received = os.read(requests, 1 << 20)
            if not received:  # the tests have ended
                for process in running.values():
                    process.kill()
                os._exit(0)
            *lines, pending = (pending + received).split(b"\n")
            for line in lines:
                running[started] = _fork(json.loads(line))
                answer(started=started, pid=running[started].pid)
                started += 1
        for number, process in list(running.items()):
            if (code := process.poll()) is not None:
                del running[number]
                answer(left=number, code=code)


def _fork(request: dict[str, Any]) -> ForkedProcess:
    """The process that was asked for, with its output in the files that it names."""
    out = os.open(request["stdout"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    error = os.open(request["stderr"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def prepare() -> None:
        os.chdir(request["folder"])
        sys.path[:0] = [entry for entry in request["environment"].get("PYTHONPATH", "").split(os.pathsep) if entry]

    try:
        return ForkedProcess(request["arguments"], request["environment"], out, error, prepare)
    finally:
        os.close(out)
        os.close(error)


class Child:
    """A process that the zygote started, with what `subprocess.Popen` says of one."""

    def __init__(self, zygote: _Zygote, number: int, pid: int) -> None:
        self._zygote, self._number = zygote, number
        self.pid = pid

    @property
    def returncode(self) -> int | None:
        """Its exit code, if it has left."""
        return self._zygote.codes.get(self._number)

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        self._zygote.listen(0.0)
        return self.returncode

    def wait(self, timeout: float = 600.0) -> int:
        """Its exit code, once it has left.

        Raises:
            subprocess.TimeoutExpired: it has not.
        """
        deadline = time.monotonic() + timeout
        while self.returncode is None and (left := deadline - time.monotonic()) > 0:
            self._zygote.listen(left)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        return self.returncode

    def kill(self) -> None:
        """End it."""
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it left in between, and the zygote has not said so yet
                os.kill(self.pid, signal.SIGKILL)


class _Zygote:
    """The tests' side of the zygote: one for each run of the tests, started when it is first needed."""

    def __init__(self) -> None:
        self.variables = {name: os.environ.get(name) for name in _FIXED} | {"OMP_NUM_THREADS": "1"}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-W", "ignore", "-m", "support.zygote"]
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self.codes: dict[int, int] = {}
        self._begun: list[tuple[int, int]] = []
        self._pending = b""

    def start(self, request: dict[str, Any]) -> Child:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        while not self._begun:
            self.listen(60.0)
        return Child(self, *self._begun.pop())

    def listen(self, timeout: float) -> None:
        """Take in what the zygote says within `timeout` seconds."""
        stream = self._process.stdout
        assert stream is not None
        if not select.select([stream], [], [], timeout)[0]:
            return
        received = stream.read(1 << 16)
        if not received:
            raise AssertionError("the zygote has ended")
        *lines, self._pending = (self._pending + received).split(b"\n")
        for said in map(json.loads, lines):
            if "code" in said:
                self.codes[said["left"]] = said["code"]
            else:
                self._begun.append((said["started"], said["pid"]))


_shared: list[_Zygote] = []


def start_python(
    arguments: Sequence[str], environment: Mapping[str, str], stdout: Path, stderr: Path, fork: bool = True,
    folder: Path | None = None,
) -> Child | subprocess.Popen[bytes]:  # fmt: skip
    """Start `python ARGUMENTS`, forked where that comes to the same; its output is appended to the files.

    Args:
        environment: all its variables.
        fork: False where it imports other files than these tests do.
        folder: its working directory; without it, that of the tests.
    """
    if fork and sys.platform.startswith("linux") and not has_cuda():
        if not _shared:
            _shared.append(_Zygote())
        zygote = _shared[0]
        if all(environment.get(name) == value for name, value in zygote.variables.items()):
            return zygote.start(
                {
                    "arguments": list(arguments),
                    "environment": dict(environment),
                    "folder": str(folder or Path.cwd()),
                    "stdout": str(stdout.absolute()),
                    "stderr": str(stderr.absolute()),
                }
            )
    with stdout.open("ab") as out, stderr.open("ab") as error:
        return subprocess.Popen(
            [sys.executable, *arguments],
            env=dict(environment),
            cwd=folder,
            stdout=out,
            stderr=error,
            stdin=subprocess.DEVNULL,
        )


def run_python(
    arguments: Sequence[str], environment: Mapping[str, str], timeout_s: float, where: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `python ARGUMENTS` to its end, in the folder `where` if it is given.

    Raises:
        subprocess.TimeoutExpired: it was ended after `timeout_s` seconds.
    """
    with tempfile.TemporaryDirectory() as folder:
        out, error = Path(folder) / "out", Path(folder) / "error"
        out.touch()
        error.touch()
        process = start_python(arguments, environment, out, error, folder=where)
        try:
            code = process.wait(timeout_s)
        finally:
            process.kill()
        return subprocess.CompletedProcess(list(arguments), code, out.read_text(), error.read_text())


if __name__ == "__main__":
    _serve()
