"""The progress bars of a build."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import accumulate

from rich.progress import Progress


def byte_bar(
    progress: Progress | None, name: str, sizes: Sequence[int], unit: str
) -> Callable[[int, int], None] | None:
    """A bar over the bytes of jobs (or other sizes), with the work done and its rate in the label; for a `JobRunner`."""
    if progress is None:
        return None
    started, ends = time.monotonic(), [0, *accumulate(sizes)]
    task = progress.add_task(name, total=ends[-1])

    def update(done: int, amount: int) -> None:
        rate = amount / max(time.monotonic() - started, 1e-9)
        progress.update(task, completed=ends[done], description=f"{name} ({amount:,} {unit}, {rate:,.0f}/s)")

    return update
