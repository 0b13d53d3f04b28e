"""Style that no linter checks: three or more values are not assigned in one line."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def sources() -> Iterator[Path]:
    """Files of the package and of the tests."""
    for tree in (ROOT / "megabiomed", ROOT / "tests"):
        # rglob does not follow the links to kernels and launch by itself, so every room is searched apart.
        for room in sorted(tree.iterdir()):
            yield from sorted(room.rglob("*.py")) if room.is_dir() else [room] if room.suffix == ".py" else []


def packed_assignments(text: str) -> Iterator[int]:
    """Lines that write three or more values into as many names: `a, b, c = x, y, z`.

    Such a line hides which value goes where, and a change of one value shows up as a change of all.
    Unpacking one value, as in `a, b, c = f()`, is another thing and allowed.
    """
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Tuple | ast.List):
            continue
        if len(node.value.elts) >= 3 and any(isinstance(target, ast.Tuple | ast.List) for target in node.targets):
            yield node.lineno


def test_no_line_assigns_three_values_at_once() -> None:
    packed = [
        f"{file.relative_to(ROOT)}:{line}: one assignment per line, please"
        for file in sources()
        for line in packed_assignments(file.read_text())
    ]
    assert not packed, "\n" + "\n".join(packed)


@pytest.mark.parametrize(
    "text", ["a, b, c = x, y, z", "def f():\n    (a, b.c, d[0]) = [x, y, z]", "i = a, b, c = 1, 2, 3"]
)
def test_a_packed_assignment_is_seen(text: str) -> None:
    assert list(packed_assignments(text))


@pytest.mark.parametrize("text", ["a, b = x, y", "a, b, c = f()", "a = x, y, z", "a = b = c = 0"])
def test_other_assignments_are_allowed(text: str) -> None:
    assert not list(packed_assignments(text))
