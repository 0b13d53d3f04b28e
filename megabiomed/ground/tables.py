"""Tables on a terminal in which nothing is cut: where it is too narrow for the columns, each row becomes some lines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_WIDEST = 100_000
"""Columns of a page that is never too narrow."""


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> None:
    """Print texts as a table that fits the terminal, or a row as lines of `column  text`; wide in a file or a pipe.

    Args:
        columns: their names; the first one names a row.
        title: lines above the table.
    """
    # Imported here: every `--help` reads the files of commands, and rich takes its time.
    from rich.console import Console

    console, held = Console(), [list(row) for row in rows]
    if title:
        console.print(title, markup=False, highlight=False, soft_wrap=True)
    table = bordered(columns, held)
    if not console.is_terminal:
        Console(width=max(console.width, _width(console, table))).print(table)
    elif fits(console, table):
        console.print(table)
    else:
        console.print(*_lines(columns, held), sep="\n")


def bordered(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Texts in a table with lines around its cells; columns of figures are aligned to the right."""
    from rich.table import Table
    from rich.text import Text

    table, held = Table(), [list(row) for row in rows]
    for number, name in enumerate(columns):
        figures = all(_is_figure(row[number]) for row in held) and bool(held)
        table.add_column(Text(name), justify="right" if figures else "left", overflow="fold", no_wrap=True)
    for row in held:
        table.add_row(*map(Text, row))
    return table


def fits(console: Console, table: Table) -> bool:
    """Whether a terminal shows all of a table."""
    return _width(console, table) <= console.width


def _width(console: Console, table: Table) -> int:
    return console.measure(table, options=console.options.update(max_width=_WIDEST)).maximum


def _lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[Any]:
    """Each row as its first text and, indented below it, the other columns that say something."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    found: list[Any] = []
    for row in rows:
        found.append(Text(f"{columns[0]}: {row[0]}" if columns[0] else row[0], overflow="fold"))
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        for name, text in zip(columns[1:], row[1:]):
            if text:
                grid.add_row(Text(name), Text(text, overflow="fold"))
        found.append(Padding(grid, (0, 0, 0, 2), expand=False))
    return found


def _is_figure(text: str) -> bool:
    return not text or text[0] in "+-.0123456789"
