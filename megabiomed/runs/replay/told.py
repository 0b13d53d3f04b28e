"""The result of a replay, as one object and in lines."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from megabiomed.ground.figures import shown
from megabiomed.runs.replay.compare import Comparison, first_non_finite
from megabiomed.runs.replay.plan import Plan
from megabiomed.runs.replay.recorded import Recorded

_SHOWN = 5
_MEANING = {
    "equal": "all figures have the bits that were recorded",
    "within": "all figures are within the bounds",
    "differs": "the step did not come out as recorded",
    "nothing recorded": "the run recorded no figures of this step (train.log_every, health.record_gradients)",
}


def result_of(
    plan: Plan, recorded: Recorded, comparison: Comparison, found: dict[str, Any], order: list[str], notes: list[str],
    world: int,
) -> dict[str, Any]:  # fmt: skip
    """One JSON object; docs/health.md lists its keys."""
    first = comparison.first
    last = plan.steps[-1]
    worst = sorted(comparison.tensors, key=lambda each: -(each.difference if each.difference is not None else 1e300))
    return {
        "step": last.step, "sample": last.sample, "checkpoint": plan.checkpoint, "steps_before": len(plan.steps) - 1,
        "processes": world, "same_topology": plan.same_topology, "exact_expected": comparison.exact,
        "bounds": dict(zip(("loss", "grad_norm", "tensors"), comparison.bounds)), "recorded_in": recorded.files,
        "verdict": comparison.verdict, "figures": [asdict(each) for each in comparison.figures],
        "tensors": {
            "compared": len(comparison.tensors),
            "equal": sum(each.verdict == "equal" for each in comparison.tensors),
            "first_difference": None if first is None else asdict(first),
            "largest_differences": [asdict(each) for each in worst[:_SHOWN] if each.verdict != "equal"],
        },
        "non_finite": {
            "before_step": found["state"], "layers": found["non_finite"], "gradient": first_non_finite(found, order),
        },
        "loss": found["loss"], "grad_norm": found["grad_norm"], "loss_tokens": found["loss_tokens"], "norms": found["norms"],
        "event": recorded.judged, "notes": notes,
    }  # fmt: skip


def lines_of(result: dict[str, Any]) -> list[str]:
    """For people."""
    lines = [
        f"step {result['step']}: loss {shown(result['loss'], '.6f')}, grad_norm {shown(result['grad_norm'], '.6f')}"
    ]
    if result["event"]:
        lines.append(f"event of the run: {result['event']['event']}, policy {result['event']['policy']}")
    lines += [_figure(each) for each in result["figures"]]
    lines += _tensor_lines(result["tensors"])
    expected = "equal bits are expected" if result["exact_expected"] else _bounds(result["bounds"])
    lines.append(f"result: {result['verdict']}: {_MEANING[result['verdict']]}; {expected}")
    lines += [f"note: {note}" for note in result["notes"]]
    return [*lines, *_non_finite_lines(result["non_finite"])]


def _bounds(bounds: dict[str, float]) -> str:
    return (
        f"bounds for another topology, machine or setting: loss {bounds['loss']:g}, grad_norm {bounds['grad_norm']:g}, "
        f"tensors {bounds['tensors']:g}"
    )


def _figure(each: dict[str, Any]) -> str:
    values = f"recorded {_number(each['recorded'])}, replayed {_number(each['replayed'])}"
    return f"{each['name']}: {values}: {_difference(each)}"


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else repr(value)


def _difference(each: dict[str, Any]) -> str:
    known = each["difference"]
    if each["verdict"] == "equal":
        return "equal"
    return f"{each['verdict']}, by {known:.1e} of the recorded" if known is not None else str(each["verdict"])


def _tensor_lines(tensors: dict[str, Any]) -> list[str]:
    if not tensors["compared"]:
        return ["gradient norms of tensors: none recorded at this step (health.record_gradients)"]
    lines = [f"gradient norms of tensors: {tensors['equal']} of {tensors['compared']} equal"]
    first = tensors["first_difference"]
    if first is not None:
        lines.append(f"first difference, going backward from the loss: {_figure(first)}")
    rest = [each for each in tensors["largest_differences"] if each != first]
    return [*lines, *(f"  also: {_figure(each)}" for each in rest)]


def _non_finite_lines(found: dict[str, Any]) -> list[str]:
    lines = []
    if found["before_step"]:
        held = found["before_step"]
        more = f" and {len(held) - _SHOWN} more" if len(held) > _SHOWN else ""
        lines.append(f"not finite already before the step: {', '.join(held[:_SHOWN])}{more}")
    if found["layers"]:
        first = found["layers"][0]
        what = "output of the forward pass" if first["phase"] == "forward" else "gradient of the output (backward pass)"
        lines.append(f"first value that is not finite: {what} of {first['layer']}, rank {first['rank']}")
        lines.append(f"  {_where(first)}")
    if found["gradient"]:
        lines.append(f"first gradient that is not finite, going backward: {found['gradient']}")
    return lines or ["everything in the step is finite"]


def _where(first: dict[str, Any]) -> str:
    documents = first["documents"]
    if not documents:
        return f"micro-batch {first['micro_batch']} of the rank, in no single token"
    one = documents[0]
    name = one.get("paper_id", "none")
    low, high = one["tokens"]
    more = f", and {len(documents) - 1} more documents of the micro-batch" if len(documents) > 1 else ""
    return (
        f"document: {name}, sample {one['sample']} (source {one['source']}, epoch {one['epoch']}, window {one['window']}), "
        f"tokens {low} to {high - 1} of the window{more}"
    )
