"""The rooms of the package stand on floors; an import goes down, never up, and never in a circle (docs/architecture.md)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parent.parent / "megabiomed"
FLOORS = (
    "ground", "config", "processes", "kernels", "tokenizer", "data", "checkpoint", "model", "corpus", "engine",
    "encoders", "samples", "doctor", "align", "evaluate", "runs", "launch", "cli",
    "train", "finetune",  # each only the name of a worker that queued jobs call; they go with the next release
)  # fmt: skip
"""Every room, from the ground up. A room may import what stands before it."""


class Arrow(NamedTuple):
    """One import of one room in another."""

    file: Path
    line: int
    importer: str
    imported: str

    def __str__(self) -> str:
        return f"{self.file.relative_to(PACKAGE.parent)}:{self.line}: {self.importer} imports {self.imported}"


def arrows(package: Path = PACKAGE) -> Iterator[Arrow]:
    """Imports between rooms, lazy ones and those for types included."""
    # The links to the top-level folders are rooms like the others; rglob does not follow them by itself.
    for room in sorted(package.iterdir()):
        files = sorted(room.rglob("*.py")) if room.is_dir() else [room] if room.suffix == ".py" else []
        for file in files:
            for line, name in imports_of(ast.parse(file.read_text())):
                if name != room.stem:
                    yield Arrow(file, line, room.stem, name)


def imports_of(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, room) of every import of the package, wherever it stands in a file."""
    for line, name in modules_of(tree):
        yield line, name.split(".")[1]


def modules_of(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import of the package: `megabiomed.model.registry.architecture_of`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            first, _, rest = name.partition(".")
            if first == "megabiomed" and rest and not rest.startswith("__"):
                yield node.lineno, name


def test_every_room_has_a_floor_and_every_floor_a_room() -> None:
    rooms = {room.stem for room in PACKAGE.iterdir() if (room / "__init__.py").is_file() or room.suffix == ".py"}
    assert rooms - {"__init__"} == set(FLOORS)


def test_imports_go_down() -> None:
    up = [str(arrow) for arrow in arrows() if FLOORS.index(arrow.imported) > FLOORS.index(arrow.importer)]
    assert not up, "\n" + "\n".join(up)


def test_no_room_but_the_models_own_knows_one_architecture_by_name() -> None:
    """Others ask `model.registry` for the one that the configuration names; strings of the registry may name them."""
    kinds = {f"megabiomed.model.{folder.name}" for folder in (PACKAGE / "model").iterdir() if folder.is_dir()}
    known = []
    for room in PACKAGE.iterdir():
        for file in room.rglob("*.py") if room.is_dir() and room.name != "model" else []:
            for line, name in modules_of(ast.parse(file.read_text())):
                if any(f"{name}.".startswith(f"{kind}.") for kind in kinds):
                    known.append(f"{file}:{line}: {name}")
    assert "megabiomed.model.llama" in kinds
    assert not known, "\n" + "\n".join(known)


def test_every_import_names_a_module_that_exists() -> None:
    """Lazy ones too: type checkers pass over the imports of a module that has moved."""
    missing = []
    for file in [*PACKAGE.rglob("*.py"), *Path(__file__).parent.rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("megabiomed."):
                place = PACKAGE.parent / str(node.module).replace(".", "/")
                if not place.with_suffix(".py").is_file() and not (place / "__init__.py").is_file():
                    missing.append(f"{file}:{node.lineno}: {node.module}")
    assert not missing, "\n" + "\n".join(missing)


def test_imports_are_absolute() -> None:
    """A relative import would not be seen by the test above."""
    relative = [
        f"{file}:{node.lineno}"
        for room in PACKAGE.iterdir() if room.is_dir() for file in room.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom) and node.level
    ]  # fmt: skip
    assert not relative


@pytest.mark.parametrize(
    "text",
    [
        "from megabiomed.runs.trainer import Trainer",
        "def f():\n    import megabiomed.runs",
        "if 1:\n    from megabiomed import runs",
    ],
)
def test_an_import_is_seen_wherever_it_stands(tmp_path: Path, text: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "order.py").write_text(text)
    assert [(arrow.importer, arrow.imported) for arrow in arrows(tmp_path)] == [("data", "runs")]
