"""Whatever is given for a value of a command, it ends with a message: no traceback, no "this is a defect", no waiting."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import pytest
from support.command_objects import fitting, make_objects
from support.command_values import Parameter, commands, words_of
from support.hostile import NUMBERS, TEXTS, damaged, hostile_paths
from typer.testing import CliRunner

from megabiomed.cli import app
from megabiomed.ground.outcome import explain
from megabiomed.processes import platform

pytestmark = pytest.mark.timeout(120)
COMMANDS = commands()
PATHS, VALUES = 2, 2
"""Hostile paths, and hostile numbers or texts, that are tried for each parameter; another parameter gets others."""
TEXTUAL, CHANGES = (".json", ".jsonl", ".safetensors", ".arrow", ".yaml"), 5
"""Files that are damaged, and in how many ways."""
READERS = {
    "run": ["plot", "status", "resubmit", "checkpoint inspect", "explain"],
    "hf": ["generate", "checkpoint import-hf"],
    "corpus": ["corpus inspect"],
    "split": ["multimodal inspect"],
    "results": ["compare"],
}
"""Commands that read an object through their first parameter."""


@pytest.fixture(scope="module")
def objects(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_objects(tmp_path_factory.mktemp("objects"), corpus)


@pytest.fixture(autouse=True)
def _stays_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Commands end by an exception instead of the end of this process, and leave no process group and no handler behind."""
    import torch.distributed as dist

    def leave(code: int = 0) -> None:
        raise SystemExit(code)

    started = not dist.is_initialized()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    monkeypatch.setattr(platform, "leave", leave)
    monkeypatch.chdir(tmp_path)
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    if started and dist.is_initialized():
        platform.end_groups()
        dist.destroy_process_group()


def fault(words: list[str]) -> str | None:
    """What is wrong with how a command ended; None where it worked, or said in a message why it does not."""
    done = CliRunner().invoke(app, words)
    code, said = done.exit_code, done.output
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        code, said = explain(done.exception, words)
    if code not in (0, 1, 2) or "this is a defect" in said or "Traceback" in said or (code and not said.strip()):
        return f"{words!r}\n  exit code {code}: {said[-1500:]}"
    return None


def chosen(parameter: Parameter, command: str, paths: list[Path]) -> list[object]:
    """Some of the hostile values of a parameter, the same ones in every test run."""
    rng = random.Random(crc32(f"{command} {parameter.name}".encode()))
    if parameter.kind is Path or (parameter.kind is str and parameter.required):
        return [paths[-1], *rng.sample(paths, PATHS)]
    return rng.sample(NUMBERS if parameter.kind in (int, float) else [*TEXTS, *map(str, paths[-5:])], VALUES)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_value_of_a_command_ends_in_a_traceback(command: str, objects: dict[str, Path], tmp_path: Path) -> None:
    faults = []
    for number, parameter in enumerate(each for each in COMMANDS[command] if each.kind is not bool):
        paths = hostile_paths(tmp_path / f"hostile{number}")  # a command may have written to one of the last ones
        for place, value in enumerate(chosen(parameter, command, paths)):
            values = fitting(command, COMMANDS[command], objects, tmp_path / f"out{number}-{place}")
            faults.append(fault(words_of(command, COMMANDS[command], values | {parameter.name: value})))
    assert not any(faults), "\n".join(filter(None, faults))


@pytest.mark.parametrize("name", READERS)
def test_no_damage_inside_of_what_a_command_reads_ends_in_a_traceback(
    name: str, objects: dict[str, Path], tmp_path: Path
) -> None:
    rng = random.Random(name)
    faults, copy = [], tmp_path / "damaged"
    for file in sorted(objects[name].rglob("*")):
        if file.suffix not in TEXTUAL or "checkpoints" in file.parts:
            continue
        contents = list(damaged(file, rng, CHANGES))
        for content in rng.sample(contents, min(CHANGES, len(contents))):
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(objects[name], copy, copy_function=os.link)
            place = copy / file.relative_to(objects[name])
            place.unlink()
            place.write_bytes(content)
            command = rng.choice(READERS[name])
            parameters = COMMANDS[command]
            values = fitting(command, parameters, objects, tmp_path / "out") | {parameters[0].name: copy}
            said = fault(words_of(command, parameters, values))
            faults += [f"{place}: {content[:300]!r}\n{said}"] if said else []
    assert not faults, "\n".join(faults)
