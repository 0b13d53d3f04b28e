"""How a rank that cannot go on says why: one message for whoever started it, a traceback only for a defect."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from megabiomed.ground.errors import NonFiniteError, RendezvousError, SaveError, UserError, WorkerError
from megabiomed.processes.local import ERROR_FILE
from megabiomed.processes.ranks import join

CLOSED = "[.../gloo/transport/tcp/pair.cc:537] Connection closed by peer [127.0.0.1]:4711\nmore"


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """A rank takes the stop signals over, and this process gets them back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("wrong", got=1), 2, "wrong: got 1"),
        (SaveError("not saved"), 1, "not saved"),
        (NonFiniteError("the loss is NaN"), 1, "the loss is NaN"),
        (RendezvousError("waited in vain"), 1, "waited in vain"),
        (WorkerError("died"), 1, "died"),
        (PermissionError(13, "Permission denied", "/data"), 1, "cannot use the file or folder '/data'"),
        (MemoryError(), 1, "this machine has too little memory"),
        (RuntimeError(CLOSED), 1, "the connection to another rank was lost, and its log says why"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_is_no_defect_is_one_message_without_a_traceback(
    error: Exception, code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    assert _ended(error, tmp_path, monkeypatch) == code
    printed = capfd.readouterr().err
    assert printed == (tmp_path / "error").read_text()
    assert printed.startswith(said)
    assert len(printed.splitlines()) == 1


def test_a_defect_says_so_behind_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert _ended(ZeroDivisionError("division by zero"), tmp_path, monkeypatch) == 1
    printed = capfd.readouterr().err
    assert printed.startswith("Traceback")
    assert "this is a defect of megabiomed, not a mistake of yours: ZeroDivisionError: division by zero" in printed


def _ended(error: Exception, folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    def read() -> None:
        raise error

    monkeypatch.setenv(ERROR_FILE, str(folder / "error"))
    return join(read, lambda task, stop: "finished")
