"""Says where a rank waits, and with which molecules and proteins, when a phase of a step takes too long."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from megabiomed.encoders.schedule import Item


@contextmanager
def watch(rank: int, phase: str, items: Sequence[Item], seconds: float) -> Iterator[None]:
    """Print one line to standard error if the block lasts longer than `seconds`."""
    timer = threading.Timer(seconds, lambda: print(message(rank, phase, items, seconds), file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def message(rank: int, phase: str, items: Sequence[Item], seconds: float) -> str:
    """`watchdog: rank 3 is in encode protein for 300 s: sample 17 protein of 1024 rows, ...`, the largest items first."""
    largest = sorted(items, key=lambda item: -item.rows_in)[:4]
    held = ", ".join(f"sample {item.sample} {item.modality} of {item.rows_in} rows" for item in largest) or "no items"
    return f"watchdog: rank {rank} is in {phase} for {seconds:g} s: {held}"
