"""The goals of `make bench-gpu` on one H100 (8,192 tokens in documents of 2-4k, 32 heads of 128, bf16) and what was found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

Rows = list[dict[str, Any]]
Found = float | None
MFU = 0.62
AHEAD = 1.15
OF_COPY_RATE = 0.85
START_S = 45.0
SAVE_SHARE = 0.01
ZERO3_BEHIND = 1.03
FP8_AHEAD = 1.3


class Goal(NamedTuple):
    """A figure, whether it should be high or low, and the bound."""

    what: str
    bound: float
    high: bool
    form: str
    find: Callable[[Rows], Found]


def goals(rows: Rows) -> Rows:
    """One row a goal; "not measured" where a figure is missing."""
    found: Rows = []
    for goal in GOALS:
        value = goal.find(rows)
        wanted = f"{'>=' if goal.high else '<='} {goal.form.format(goal.bound)}"
        row: dict[str, Any] = {"goal": goal.what, "wanted": wanted, "found": "not measured", "reached": ""}
        if value is not None:
            reached = value >= goal.bound if goal.high else value <= goal.bound
            row |= {"found": goal.form.format(value), "reached": "yes" if reached else "no"}
        found.append(row)
    return found


def _side(op: str, side: int, column: str, candidate: str = "") -> Callable[[Rows], Found]:
    """Forward (0), backward (1) or both together (2) of what `auto` takes, or of another candidate."""

    def find(rows: Rows) -> Found:
        for row in rows:
            wanted = row.get("op") == op and row["section"] in ("attention", "other-kernels")
            if wanted and (row["candidate"] == candidate if candidate else row.get("auto")):
                values = [float(value) for value in str(row.get(column, "")).split(" / ") if value]
                if side == 2:
                    return sum(values) if values else None
                return values[side] if len(values) > side else None
        return None

    return find


def _ms(op: str, side: int, candidate: str = "") -> Callable[[Rows], Found]:
    return _side(op, side, "forward / backward ms", candidate)


def _share(op: str, side: int) -> Callable[[Rows], Found]:
    return _side(op, side, "of roofline")


def _ratio(above: Callable[[Rows], Found], below: Callable[[Rows], Found]) -> Callable[[Rows], Found]:
    def find(rows: Rows) -> Found:
        top, bottom = above(rows), below(rows)
        return top / bottom if top and bottom else None

    return find


def _step(start: str, column: str, pick: Callable[[list[float]], float], number: int = 4) -> Callable[[Rows], Found]:
    """Of the training steps of so many micro-batches whose candidates begin like this."""

    def find(rows: Rows) -> Found:
        found = [
            float(row[column])
            for row in rows
            if row.get("micro-batches") == number
            and row["candidate"].startswith(start)
            and row.get(column, "n/a") != "n/a"
        ]
        return pick(found) if found else None

    return find


def _start(rows: Rows) -> Found:
    for row in rows:
        if row["section"] == "start" and row["case"] == "first start" and row["candidate"] == "step 1 done":
            return float(row["seconds after the command"])
    return None


def _save(rows: Rows) -> Found:
    for row in rows:
        if row["section"] == "save" and row["candidate"].startswith("megabiomed") and "of 500 steps" in row:
            return float(row["of 500 steps"].rstrip("%")) / 100
    return None


OURS, PEERS = "megabiomed zero1", "transformers"
MS = "{:.3f} ms"
RATIO = "{:.2f} x"
SHARE = "{:.1%}"
GOALS = [
    Goal("MFU, 4 micro-batches, ZeRO-1", MFU, True, SHARE, _step(OURS, "MFU", max)),
    Goal("tokens/s over the best peer's, 4 micro-batches", AHEAD, True, RATIO,
         _ratio(_step(OURS, "tokens/s", max), _step(PEERS, "tokens/s", max))),
    Goal("tokens/s over the best peer's, 1 micro-batch", AHEAD, True, RATIO,
         _ratio(_step(OURS, "tokens/s", max, 1), _step(PEERS, "tokens/s", max, 1))),
    Goal("peak memory over the leanest peer's", 1.0, False, RATIO,
         _ratio(_step(OURS, "peak memory GiB", max), _step(PEERS, "peak memory GiB", min))),
    Goal("ZeRO-3 step over ZeRO-1 step", ZERO3_BEHIND, False, "{:.3f} x",
         _ratio(_step("megabiomed zero3", "seconds", min), _step(OURS, "seconds", min))),
    Goal("fp8 tokens/s over bf16", FP8_AHEAD, True, RATIO,
         _ratio(_step("megabiomed fp8", "tokens/s", max), _step(OURS, "tokens/s", max))),
    Goal("attention forward, with RoPE", 0.38, False, MS, _ms("attention", 0)),
    Goal("attention backward, with RoPE", 1.2, False, MS, _ms("attention", 1)),
    Goal("add + RMSNorm backward, of the copy rate", OF_COPY_RATE, True, SHARE, _share("norm", 1)),
    Goal("SwiGLU backward, of the copy rate", OF_COPY_RATE, True, SHARE, _share("swiglu", 1)),
    Goal("head and loss, forward and backward, Liger's time over ours", 1.0, True, RATIO,
         _ratio(_ms("loss", 2, "liger"), _ms("loss", 2))),
    Goal("AdamW, torch's time with clip and cast over ours", 1.4, True, RATIO,
         _ratio(_ms("adamw", 0, "torch"), _ms("adamw", 0, "triton"))),
    Goal("start, seconds to the first step, 1.4 B", START_S, False, "{:.0f} s", _start),
    Goal("save, lost step time, of 500 steps", SAVE_SHARE, False, "{:.2%}", _save),
]  # fmt: skip
