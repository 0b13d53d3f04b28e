"""What every command refuses before it works: values that no part of the program could take, whatever the option."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from megabiomed.ground.errors import ConfigError, FileError

LARGEST_SEED = 2**63 - 1
"""Generators of numpy, Python and torch take every seed from 0 to this one."""
SMALLEST_TEMPERATURE = 1e-6
"""Below it the most likely token is certain, and a logit divided by it may leave the range of fp32."""


def finite(value: float) -> float:
    """The value of a typer option, if it is a finite number: `nan` passes every bound, and `inf` every lower one."""
    if not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value


def temperature(value: float) -> float:
    """The value of a typer option, if logits can be divided by it; 0 means not to sample."""
    if 0 < finite(value) < SMALLEST_TEMPERATURE:
        raise typer.BadParameter(f"{value} is below {SMALLEST_TEMPERATURE}; 0 takes the most likely token")
    return value


def guard(app: typer.Typer) -> None:
    """Let every command of an application and of its groups check its values before it runs (`check_value`)."""
    for command in app.registered_commands:
        if command.callback is not None and not hasattr(command.callback, "__wrapped__"):
            command.callback = _guarded(command.callback)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            guard(group.typer_instance)


def _guarded(command: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(command)
    def checked(**values: Any) -> Any:
        for name, value in values.items():
            for one in value if isinstance(value, list | tuple) else [value]:
                check_value(name.strip("_").replace("_", "-"), one)
        return command(**values)

    return checked


def _encodes(text: str) -> bool:
    """Python keeps bytes of the command line that are not UTF-8 as halves of surrogate pairs, which no file can hold."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def check_value(name: str, value: object) -> None:
    """Refuse a value of the command line that nothing can work with.

    Args:
        name: of the argument or option, for the message.

    Raises:
        FileError: a path of a pipe, a socket or a device: reading one may wait for ever, and an atomic write replaces it.
        ConfigError: a whole number of more than 64 bits, a number that is not finite, or a text that is not UTF-8.
    """
    if isinstance(value, str | Path) and not _encodes(str(value)):
        raise ConfigError(
            f"{name} is not UTF-8 text", got=ascii(value)[:200], do="type it in a UTF-8 terminal, or rename the file"
        )
    if isinstance(value, Path) and value.is_symlink():
        try:
            value.resolve()
        except RuntimeError:  # Python's word for ELOOP
            raise FileError(f"{name} is a link that leads to itself", got=value, do="correct it") from None
    if isinstance(value, Path) and value.exists() and not value.is_file() and not value.is_dir():
        raise FileError(
            f"{name} is a pipe or a device", got=value, expected="a file or a folder", do="use a file in its place"
        )
    if isinstance(value, int) and not -LARGEST_SEED <= value <= LARGEST_SEED:
        got = f"a number of {value.bit_length()} bits"
        raise ConfigError(f"{name} is out of range", got=got, expected="one of at most 63 bits")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{name} is not a finite number", got=value)
