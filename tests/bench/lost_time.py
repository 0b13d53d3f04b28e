"""What a save really costs: the time by which the steps after it are slower, not only the pause."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.distributed as dist

from megabiomed.processes import platform

AFTER, INTERVAL = 20, 500
"""Steps after a save that are watched, and steps from one save to the next of a real run."""
GOAL = 0.01
"""Of a save interval."""
MOST_STEPS = 300


class Saving(NamedTuple):
    """A save that has begun."""

    wait: Callable[[], object]
    done: Callable[[], bool]


def lost_step_time(
    step: Callable[[], object], save: Callable[[int], Saving], saves: int = 2, undisturbed: int = 15, warm_up: int = 3
) -> dict[str, float]:
    """Seconds that saves take from the training, on this rank; collective.

    Lost: the pause plus the sum of (step - median of undisturbed steps) over the 20 steps after it. Steps go on until the
    files are committed, so that what comes after the 20 is known too.

    Returns:
        median_step_s; of the first save and, as `later`, the worst of the others: pause_s, lost_s, lost_until_committed_s,
        steps_until_committed, slowest_step (in medians); share, of `INTERVAL` steps, of the save that lost most.
    """
    for _ in range(warm_up):
        step()
    median = statistics.median(_seconds(step) for _ in range(undisturbed))
    found = {"median_step_s": median}
    for number in range(saves):
        one = _one_save(step, save, number + 1, median)
        name = "later" if number else "first"
        for key, value in one.items():
            found[f"{name}_{key}"] = max(value, found.get(f"{name}_{key}", value))
    worst = max(value for key, value in found.items() if key.endswith("_lost_s"))
    return found | {"share": worst / (INTERVAL * median)}


def _one_save(
    step: Callable[[], object], save: Callable[[int], Saving], number: int, median: float
) -> dict[str, float]:
    began = time.perf_counter()
    saving = save(number)
    pause = time.perf_counter() - began
    steps: list[float] = []
    committed = 0
    while len(steps) < AFTER or (not committed and len(steps) < MOST_STEPS):
        steps.append(_seconds(step))
        committed = committed or (len(steps) if _everywhere(saving.done()) else 0)
    saving.wait()
    extra = [seconds - median for seconds in steps]
    return {
        "pause_s": pause,
        "lost_s": pause + sum(extra[:AFTER]),
        "lost_until_committed_s": pause + sum(extra[: committed or None]),
        "steps_until_committed": float(committed or len(steps)),
        "slowest_step": max(steps) / median,
    }


def _everywhere(done: bool) -> bool:
    """Whether all ranks are done, so that they go on together."""
    flag = torch.tensor([int(done)], device=platform.device())
    dist.all_reduce(flag, op=dist.ReduceOp.MIN)
    return bool(flag.item())


def _seconds(call: Callable[[], object]) -> float:
    platform.synchronize()
    began = time.perf_counter()
    call()
    platform.synchronize()
    return time.perf_counter() - began
