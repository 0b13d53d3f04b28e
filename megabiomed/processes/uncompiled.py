"""Import a library without torch's compiler, which its decorated functions would load: two seconds of processor time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def uncompiled() -> Iterator[None]:
    """Inside, `torch.compile` leaves functions as they are. For functions that this package does not call."""
    compiler = torch.compile
    torch.compile = _left_alone
    try:
        yield
    finally:
        torch.compile = compiler


def _left_alone(function: Callable[..., Any] | None = None, **_: Any) -> Callable[..., Any]:
    """`torch.compile`, also as a decorator with arguments, that compiles nothing."""
    return _left_alone if function is None else function
