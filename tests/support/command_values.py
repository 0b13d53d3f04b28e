"""Every command of the program with its parameters, found by asking the application, and values that fit them."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from megabiomed.cli import app

ALIASES = ("qa ", "dataset ")
"""Groups under an old name: the same commands once more."""


@dataclass(frozen=True)
class Parameter:
    """One argument or option.

    Attributes:
        flag: as it is typed; "" for an argument.
        kind: Path, int, float, bool or str; a choice is a str.
    """

    name: str
    flag: str
    kind: type
    required: bool

    def words(self, value: object) -> list[str]:
        """How a value is typed. `=` and the place behind `--` keep a value that begins with a dash from being an option."""
        return [f"{self.flag}={value}"] if self.flag else [str(value)]


def commands() -> dict[str, list[Parameter]]:
    """Words of a command -> its parameters."""
    found = _leaves(typer.main.get_command(app), "")
    return {name: list(_parameters(leaf)) for name, leaf in found if not name.startswith(ALIASES)}


def _leaves(command: Any, words: str) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield words, command
        return
    for name, below in command.commands.items():
        yield from _leaves(below, f"{words} {name}".strip())


def _parameters(command: Any) -> Iterator[Parameter]:
    hints = typing.get_type_hints(inspect.unwrap(command.callback))
    for held in command.params:
        flag = held.opts[0] if held.param_type_name == "option" else ""
        yield Parameter(held.name, flag, _kind(hints[held.name]), held.required)


def _kind(hint: Any) -> type:
    """The innermost type of `list[Path] | None`; what is none of the plain ones (a choice) is text."""
    inner = [part for part in typing.get_args(hint) if part is not type(None)]
    if isinstance(hint, type) and not inner:
        return hint if hint in (Path, int, float, bool) else str
    return _kind(inner[0]) if inner and typing.get_origin(hint) is not typing.Literal else str


def words_of(command: str, parameters: list[Parameter], values: dict[str, object]) -> list[str]:
    """A command line: options first, then the arguments behind `--`."""
    chosen = [(parameter, values[parameter.name]) for parameter in parameters if parameter.name in values]
    options: list[str] = []
    for parameter, value in chosen:
        if parameter.flag and parameter.kind is bool:
            options += [parameter.flag] if value else []
        elif parameter.flag:
            options += parameter.words(value)
    return [*command.split(), *options, "--", *(str(value) for parameter, value in chosen if not parameter.flag)]
