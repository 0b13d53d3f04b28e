"""Calls with a time limit that also ends what no signal can: native code that does not come back."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class TimeLimited(Generic[P, R]):
    """A function that runs in a process of its own, which is killed when a call takes too long.

    The process starts with the first call and again after a kill. Starting counts for no call.

    Args:
        function: of a module, so that another process can import it; arguments and results are pickled.
        seconds: that a call may take.
    """

    def __init__(self, function: Callable[P, R], seconds: float) -> None:
        self._function, self.seconds = function, seconds
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function.

        Raises:
            TimeoutError: it took too long, or its process died.
        """
        try:
            pipe = self._pipe or self._start()
            pipe.send((args, kwargs))
            if not pipe.poll(self.seconds):
                raise TimeoutError(f"more than {self.seconds:g} s")
            result, error = pipe.recv()
        except TimeoutError:
            self.close()
            raise
        except (EOFError, ConnectionError):
            self.close()
            raise TimeoutError("its process died") from None
        except BaseException:  # an interrupt: whatever comes through the pipe next answers an older call
            self.close()
            raise
        if error is not None:
            raise error
        found: R = result
        return found

    def _start(self) -> Connection:
        context = multiprocessing.get_context("spawn")  # a fork would copy the locks of other threads
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(self._function, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self._pipe.recv()
        return self._pipe

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            pipe.close()
        if process is not None:
            process.kill()
            process.join()

    def __enter__(self) -> TimeLimited[P, R]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _serve(function: Callable[..., Any], pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other end decides
    pipe.send("ready")
    with suppress(EOFError):
        while True:
            args, kwargs = pipe.recv()
            try:
                answer: tuple[Any, BaseException | None] = function(*args, **kwargs), None
            except Exception as error:
                answer = None, error
            pipe.send(answer)
