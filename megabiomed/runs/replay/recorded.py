"""What a run recorded of a step: loss, gradient norm, gradient norm of each tensor, and whether its update was applied."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megabiomed.checkpoint.fence import of_owners
from megabiomed.ground.json_lines import read_objects
from megabiomed.runs.history import METRICS, read_events

GRADIENTS = "gradients.jsonl"
JUDGED = ("non_finite", "spike")


@dataclass(frozen=True)
class Recorded:
    """Figures of a step as files of the run have them: a number, or "not finite".

    Attributes:
        norms: of the gradient of each tensor, by its name; empty where none were recorded.
        judged: the event of a step that is not finite or a spike.
        files: where the figures were found.
    """

    loss: float | str | None = None
    grad_norm: float | str | None = None
    norms: dict[str, float | str] = field(default_factory=dict)
    judged: dict[str, Any] | None = None
    files: list[str] = field(default_factory=list)


def recorded(folder: Path, step: int, sample: int, last: bool) -> Recorded:
    """What the run says of a step that began at a sample.

    Args:
        last: whether no later step had the same number; metrics.jsonl does not say which samples its steps read.
    """
    judged = next((event for event in read_events(folder) if _is(event, step, sample)), None)
    kept = [
        record for record in of_owners(read_objects(folder / GRADIENTS))
        if record.get("step") == step and record.get("sample") == sample
    ]  # fmt: skip
    if kept:
        return Recorded(kept[-1]["loss"], kept[-1]["grad_norm"], dict(kept[-1]["norms"]), judged, [GRADIENTS])
    if judged is not None:
        return Recorded(_figure(judged["loss"]), _figure(judged["grad_norm"]), {}, judged, ["events.jsonl"])
    lines = [r for r in of_owners(read_objects(folder / METRICS)) if r.get("step") == step and "train/loss" in r]
    if not lines or not last:
        return Recorded()
    return Recorded(lines[-1]["train/loss"], lines[-1]["train/grad_norm"], {}, None, [METRICS])


def refused_steps(folder: Path) -> set[tuple[int, int]]:
    """(step, its first sample) of every step whose update was not applied."""
    return {
        (event["step"], event["samples"][0]) for event in read_events(folder)
        if event["event"] in JUDGED and event.get("policy") == "skip"
    }  # fmt: skip


def _is(event: dict[str, Any], step: int, sample: int) -> bool:
    return event["event"] in JUDGED and event.get("step") == step and event.get("samples", [None])[0] == sample


def _figure(value: Any) -> float | str:
    return value if isinstance(value, int | float) else "not finite"
