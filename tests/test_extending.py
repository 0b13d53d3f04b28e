"""Every recipe of docs/extending.md works as it is printed: its files are written, its commands are run."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "extending.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SAID = {
    "An optimizer": "momentum_buffer",
    "A learning-rate schedule": "finished: step 6 of 6",
    "A corpus layout": r"papers: kept\W+30 ",
    "A tracker": "seen by the tracker: finished",
    "A kind of run": r"/c/train: \d+ tokens\n",
}
"""What the last command of a recipe prints when it really used the recipe."""
ELSEWHERE = {
    "A model": "model/test_outside.py",
    "A pipeline schedule": "engine/test_parity.py",
    "An encoder": "align/test_extending.py",
    "A modality": "align/test_extending.py",
}
"""Recipes whose tests need more than their commands."""
Command = Callable[..., subprocess.CompletedProcess[str]]


class Recipe(NamedTuple):
    """One section: files by name, and the words of its commands after `megabiomed`."""

    title: str
    files: dict[str, str]
    commands: list[list[str]]


def recipes(text: str) -> list[Recipe]:
    """The sections of a page. The first line of a block with a file is a comment with its name."""
    read = []
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        blocks = BLOCK.findall(section)
        files = {
            block.split("\n", 1)[0].removeprefix("# "): block for kind, block in blocks if kind in ("python", "yaml")
        }
        lines = [line for kind, block in blocks if kind == "bash" for line in block.replace("\\\n", " ").splitlines()]
        commands = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("megabiomed ")]
        read.append(Recipe(section.split("\n", 1)[0], files, commands))
    return read


RECIPES = recipes(PAGE.read_text())


@pytest.fixture
def workplace(run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on PYTHONPATH with what the recipes begin with: run.yaml and reports.jsonl."""
    facts = [f"Patient {n} took {n * 3} mg for {n + 1} days and recovered after day {n + 2}. " * 8 for n in range(30)]
    reports = [
        {"pmcid": f"PMC{n}", "title": f"Case {n}", "sections": [{"heading": "Case", "text": fact}]}
        for n, fact in enumerate(facts)
    ]
    (tmp_path / "reports.jsonl").write_text("".join(json.dumps(report) + "\n" for report in reports))
    run_file.write_text(f"run_dir: run\n{run_file.read_text()}")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("title", SAID)
def test_a_recipe_works_as_printed(title: str, workplace: Path, command: Command) -> None:
    recipe = next(recipe for recipe in RECIPES if recipe.title == title)
    for name, text in recipe.files.items():
        (workplace / name).write_text(text)
    said = [command(*words).stdout for words in recipe.commands]
    assert re.search(SAID[title], said[-1]), said[-1]


def test_every_recipe_is_tested_and_uses_its_own_files() -> None:
    assert {recipe.title for recipe in RECIPES} == {*SAID, *ELSEWHERE}
    assert all((Path(__file__).parent / test).is_file() for test in ELSEWHERE.values())
    for recipe in RECIPES:
        modules = [Path(name).stem for name in recipe.files if name.endswith(".py")]
        shown = [*recipe.files.values(), *map(" ".join, recipe.commands)]
        assert modules or recipe.title in ("A model", "A pipeline schedule"), recipe.title
        assert all(any(f"{module}:" in text for text in shown) for module in modules), recipe.title
