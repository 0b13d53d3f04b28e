"""What `megabiomed checkpoint diff` says."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from megabiomed.doctor.difference import TensorDifference, differences, open_side, work


def compare(first: Path, second: Path) -> list[TensorDifference]:
    """Compare with a progress bar."""
    a, b = open_side(first), open_side(second)
    columns = TextColumn("compare"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("compare", total=work(a, b))
        return list(differences(a, b, lambda count: bar.advance(task, count)))


def print_differences(found: Iterable[TensorDifference]) -> None:
    """The table for the terminal; nothing when there is nothing to show."""
    table = Table("tensor", "kind", "elements", "largest", "relative")
    for item in found:
        if item.problem:
            table.add_row(item.name, item.kind, item.problem, "", "")
        else:
            table.add_row(item.name, item.kind, f"{item.differing:,}", f"{item.max_abs:.3g}", f"{item.relative:.3g}")
    if table.row_count:
        Console().print(table)
