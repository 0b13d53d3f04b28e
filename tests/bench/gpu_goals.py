"""The goals of `make bench-gpu` on one H100 (8,192 tokens in documents of 2-4k, 32 heads of 128, bf16) and what was found."""

from __future__ import annotations

from typing import Any, NamedTuple

Rows = list[dict[str, Any]]


class Goal(NamedTuple):
    """A time at most, or a speed-up at least over `peer`, of one side (0 forward, 1 backward) of a candidate."""

    what: str
    section: str
    candidate: str
    side: int
    ms: float = 0.0
    peer: str = ""
    ratio: float = 0.0


GOALS = [
    Goal("attention forward, Hopper kernel", "attention", "hopper", 0, ms=0.38),
    Goal("attention backward, Hopper kernel, deterministic", "attention", "hopper", 1, ms=1.5),
    Goal("attention forward, Triton against flash-attn 3", "attention", "triton", 0, peer="flash3", ratio=0.6),
    Goal("attention backward, Triton against flash-attn 3", "attention", "triton", 1, peer="flash3", ratio=0.45),
    Goal("attention forward, Triton against FlexAttention", "attention", "triton", 0, peer="flex", ratio=1.0),
    Goal("attention backward, Triton against FlexAttention", "attention", "triton", 1, peer="flex", ratio=1.0),
    Goal("RoPE + attention forward against flash-attn 3", "attention", "hopper", 0, peer="flash3", ratio=1.06),
    Goal("add + RMSNorm forward", "norm", "triton", 0, ms=0.100),
    Goal("add + RMSNorm backward", "norm", "triton", 1, ms=0.110),
    Goal("add + RMSNorm backward against Liger", "norm", "triton", 1, peer="liger", ratio=3.0),
    Goal("SwiGLU forward", "swiglu", "triton", 0, ms=0.200),
    Goal("SwiGLU backward", "swiglu", "triton", 1, ms=0.335),
    Goal("head and loss against Liger", "loss", "triton", 0, peer="liger", ratio=1.3),
    Goal("AdamW against torch with clip and cast", "adamw", "triton", 0, peer="torch", ratio=1.4),
]
STEP_MFU = 0.60


def goals(found: dict[str, Rows]) -> Rows:
    """One row a goal; "not measured" where a figure is missing."""
    rows: Rows = []
    for goal in GOALS:
        ours = _ms(found, goal.section, goal.candidate, goal.side)
        row = {"goal": goal.what, "wanted": f"<= {goal.ms} ms" if goal.ms else f">= {goal.ratio} x {goal.peer}"}
        if goal.ms:
            verdict = _verdict(f"{ours:.3f} ms", ours <= goal.ms) if ours else ("not measured", "")
        else:
            theirs = _ms(found, goal.section, goal.peer, goal.side)
            ratio = theirs / ours if ours and theirs else 0.0
            verdict = _verdict(f"{ratio:.2f} x", ratio >= goal.ratio) if ratio else ("not measured", "")
        rows.append(row | {"found": verdict[0], "reached": verdict[1]})
    rows.append(_step(found))
    return rows


def _verdict(found: str, reached: bool) -> tuple[str, str]:
    return found, "yes" if reached else "no"


def _ms(found: dict[str, Rows], section: str, candidate: str, side: int) -> float | None:
    for row in found.get(section, []):
        times = str(row.get("forward / backward ms", "")).split(" / ")
        if str(row.get("candidate", "")).removesuffix(" (auto)") == candidate and len(times) > side and times[side]:
            return float(times[side])
    return None


def _step(found: dict[str, Rows]) -> dict[str, Any]:
    shares = [
        float(row["MFU"])
        for name, rows in found.items()
        for row in rows
        if name.startswith("step megabiomed") and row.get("MFU", "n/a") != "n/a"
    ]
    row = {"goal": "training step, MFU", "wanted": f">= {STEP_MFU}"}
    verdict = _verdict(f"{max(shares):.3f}", max(shares) >= STEP_MFU) if shares else ("not measured", "")
    return row | {"found": verdict[0], "reached": verdict[1]}
