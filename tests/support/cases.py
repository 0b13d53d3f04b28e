"""Cases that ranks compute one after another in the same processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from megabiomed.processes import platform


def one_by_one(cases: Iterable[Any], run: Callable[[Any], Any]) -> list[Any]:
    """What each case gives. The process groups of a case end with it."""
    found = []
    for case in cases:
        found.append(run(case))
        platform.end_groups()
    return found
