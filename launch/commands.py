"""The commands of a chain, and what a stage needs on this file system: looked at before a job waits hours to fail on it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import megabiomed
from megabiomed.config.container import in_image
from megabiomed.ground.errors import ConfigError
from megabiomed.ground.places import is_below
from megabiomed.launch import records
from megabiomed.launch.stage import ChainStage

# Parameters of commands that name what they read. Others name what is written, and may not exist.
_READ = {
    *("inputs", "files", "file", "texts", "pdf_parses", "tokenizer", "score_tokenizer", "model", "base", "run"),
    *("checkpoint", "store", "split", "retrieval", "train", "batch", "path", "first", "second", "a", "b"),
}
_PATHS = ("path", "file", "directory")
"""What click calls the types of paths, whose values are text before they reach the command."""
_AGENT = "import megabiomed.launch.agent"
Parameters = Callable[[list[str]], dict[str, Any]]


def parse_command(root: Any, words: list[str]) -> dict[str, Any]:
    """The paths among the parameters of a command of megabiomed: name -> value, or values.

    Args:
        root: context of the whole application; click may be a package or a part of typer, so its types are not named.

    Raises:
        ConfigError: the words are no valid command.
    """
    context, rest = root, list(words)
    command = cast(Any, root.command)
    try:
        while hasattr(command, "resolve_command"):
            if not rest:
                raise _not_understood(words, "Missing command.")
            name, command, rest = command.resolve_command(context, rest)
            if hasattr(command, "resolve_command"):
                context = type(root)(command, info_name=name, parent=context)
        values = command.make_context(name, rest, parent=context).params
    except Exception as error:
        if type(error).__name__ == "Exit":
            raise _not_understood(words, "it only prints help") from None
        if hasattr(error, "format_message"):
            raise _not_understood(words, error.format_message()) from None
        raise
    kinds = {parameter.name: getattr(getattr(parameter, "type", None), "name", None) for parameter in command.params}
    return {name: value for name, value in values.items() if kinds.get(name) in _PATHS or _is_path(value)}


def _is_path(value: object) -> bool:
    """Whether a parameter was given as a path, or as several."""
    return isinstance(value, Path) or (isinstance(value, list | tuple) and any(map(_is_path, value)))


def _not_understood(words: list[str], why: str) -> ConfigError:
    return ConfigError(
        "a stage's command is not understood", got=f"{' '.join(words)}: {why}", do="see `megabiomed --help`"
    )


def missing(stages: list[ChainStage], parameters: Parameters) -> Iterator[ConfigError]:
    """What the stages need and this machine does not have: interpreters, inputs of commands that no earlier stage makes."""
    for number, stage in enumerate(stages):
        yield from _pythons(stage)
        yield from _wrap(stage)
        if stage.kind == records.COMMAND:
            made = [path for other in stages[:number] for path in (*other.controls, *other.makes)]
            yield from _inputs(stage, parameters(list(stage.arguments)), [*made, *stage.makes])


def _inputs(stage: ChainStage, values: dict[str, Any], made: list[Path]) -> Iterator[ConfigError]:
    for name in sorted(name for name in _READ if values.get(name)):
        several = values[name] if isinstance(values[name], list | tuple) else [values[name]]
        for path in map(Path, several):
            if path.exists() or any(is_below(path, folder) for folder in made):
                continue
            yield ConfigError(
                f"{name} of stage {stage.name} {'match no file' if '*' in str(path) else 'does not exist'}", got=path,
                do="correct it, or name it under `makes` of an earlier stage",
            )  # fmt: skip


def _pythons(stage: ChainStage) -> Iterator[ConfigError]:
    """Interpreters that are not there: every node would fail alike, and be blamed for it."""
    cluster = stage.cluster
    inside = bool(cluster.wrap) or in_image(cluster)  # then `python` is the image's
    host = cluster.host_python or cluster.python
    named = {"host_python": host, "python": None if inside or cluster.python == host else cluster.python}
    for key, path in named.items():
        # A bare name is looked up on the node, perhaps after a module was loaded there.
        if path is None or (cluster.modules and "/" not in str(path)):
            continue
        if shutil.which(path) is None:
            yield ConfigError(
                f"{key} of stage {stage.name} cannot be run", got=path, expected="an interpreter on this machine too",
                do=f"correct {key} of the cluster file",
            )  # fmt: skip
        elif key == "host_python" and not cluster.modules and (why := _cannot_decide(path)):
            yield ConfigError(
                f"host_python of stage {stage.name} cannot run the batch script's decisions", got=f"{path}: {why}",
                do="name the interpreter of an environment in which megabiomed is installed",
            )  # fmt: skip


def _wrap(stage: ChainStage) -> Iterator[ConfigError]:
    """The program before the ranks, if it is not there; a bare name may come with a module on the nodes."""
    program = next(iter(stage.cluster.wrap), None)
    if program is None or (stage.cluster.modules and "/" not in program) or shutil.which(program) is not None:
        return
    yield ConfigError(
        f"the first word of `wrap` of stage {stage.name} cannot be run", got=program,
        expected="a program on this machine too",
        do=f"install or correct it; if only the nodes have it, write wrap: [env, {program}, ...]",
    )  # fmt: skip


def _cannot_decide(python: Path) -> str | None:
    """Why an interpreter cannot import the agent from the copy of this package; None when it can, or cannot run here."""
    if str(python) == sys.executable:
        return None
    here = str(Path(megabiomed.__file__).parent.parent)
    try:
        done = subprocess.run(
            [python, "-c", _AGENT], env=os.environ | {"PYTHONPATH": here}, capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):  # for the nodes' processors, or on storage that is slow today
        return None
    return (done.stderr.strip().splitlines() or ["no message"])[-1] if done.returncode else None
