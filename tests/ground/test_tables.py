"""Tables on terminals of any width: nothing is cut, and no line is wider than the terminal."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from megabiomed.ground.tables import print_table

ROOT = Path(__file__).parents[2]
COLUMNS = ["set", "items", "accuracy [95 %]", "normalised", "macro-F1", "majority", "without contaminated"]
ROWS = [
    ["molecule/chebi-20-mentions-of-a-very-long-name-without-any-space-that-is-wider-than-a-terminal", "1,204",
     "51.4% [49.9%, 52.9%]", "50.0% [49.0%, 51.0%]", "0.5 [bold]x", "33.3%", "51.4% [49.9%, 52.9%] of 1,200"],
    ["protein", "12", "1.0% [0.0%, 2.0%]", "", "0.1", "25.0%", ""],
]  # fmt: skip
TITLE = "a model in a folder with a name that is as long as it wants to be, /" + "x" * 80


@pytest.mark.parametrize("width", [40, 80, 100, 240])
@pytest.mark.parametrize("terminal", [True, False])
def test_every_text_is_whole(
    width: int, terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("FORCE_COLOR", "1" if terminal else "")
    monkeypatch.setenv("TERM", "xterm")
    print_table(COLUMNS, ROWS, TITLE)
    title, _, said = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).partition("\n")
    assert title == TITLE
    assert "…" not in said
    assert not terminal or max(len(line.rstrip()) for line in said.splitlines()) <= width
    together = "".join(said.split())
    for text in [*(name for name in COLUMNS[1:]), *(cell for row in ROWS for cell in row)]:
        assert "".join(text.split()) in together, text
    if terminal and width == 80:
        assert "\n  accuracy [95 %]       51.4% [49.9%, 52.9%]" in said


def test_every_table_for_a_terminal_is_this_one() -> None:
    """rich's own cuts names and wraps figures where a terminal is narrow."""
    places = [*(ROOT / "megabiomed").rglob("*.py"), *(ROOT / "launch").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")]
    found = {
        str(path.relative_to(ROOT))
        for path in places
        if "rich" in path.read_text()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "rich.table"
    }
    assert found == {"megabiomed/ground/tables.py"}
