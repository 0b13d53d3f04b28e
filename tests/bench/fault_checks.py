"""What must hold whatever happens to a run: pure functions over the queue and a run's own records; each returns complaints."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from megabiomed.checkpoint.fence import CLAIM, of_owners

OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "DEADLINE", "OUT_OF_MEMORY")
CLOSE = 1e-5
"""How far a loss may be from the reference after a change of topology."""


def lines_of(file: Path) -> list[dict[str, Any]]:
    """Whole objects of a file of JSON lines; empty where there is no file."""
    found = []
    for line in file.read_text(errors="replace").splitlines() if file.is_file() else ():
        try:
            found.append(json.loads(line))
        except ValueError:  # the last line, which is being written
            continue
    return found


def doubled(queue: str) -> list[str]:
    """Runs that have more than one live job, of lines `id|state|reason|nodes|script`."""
    rows = [line.split("|", 4) for line in queue.splitlines() if line.count("|") >= 4]
    live = Counter(str(Path(script).resolve()) for _, state, _, _, script in rows if state not in OVER)
    return [f"{count} live jobs of {script}" for script, count in live.items() if count > 1]


def unexplained(row: Mapping[str, Any]) -> list[str]:
    """A run that waits, or is over without being finished, and whose row of `status` does not say why."""
    if row["state"] in ("RUNNING", "COMPLETING", "CONFIGURING", "FINISHED", "COMPLETED", "CANCELLED"):
        return []
    said = [row.get(key) for key in ("reason", "blocked", *(() if row["state"] == "PENDING" else ("last",)))]
    return [] if any(said) else [f"{row['run']} is {row['state']}, and status has no reason"]


def lost(events: list[dict[str, Any]], committed: int = 0) -> list[str]:
    """Starts that began before the newest save.

    Args:
        committed: newest committed step that was seen before the last start.
    """
    found, newest = [], 0
    starts = [event for event in events if event["event"] in ("start", "resume")]
    for event in of_owners(events):
        if event["event"] == "save":
            newest = max(newest, event["step"])
        elif event["event"] in ("start", "resume"):
            newest = max(newest, committed if event is starts[-1] else 0)
            if event["step"] < newest:
                found.append(f"a start began at step {event['step']}, although step {newest} was saved")
    return found


def two_owners(events: Iterable[dict[str, Any]]) -> list[str]:
    """Saves of a start after a later start had taken the run over."""
    found, newest = [], 0
    for event in events:
        number = event.get(CLAIM, newest)
        if number < newest and event["event"] == "save":
            found.append(f"step {event['step']} was saved by a start that had lost the run")
        newest = max(newest, number)
    return found


def broken_order(metrics: list[dict[str, Any]], events: list[dict[str, Any]]) -> list[str]:
    """Steps that follow neither the step before them nor a start."""
    begun = {0} | {event["step"] for event in events if event["event"] == "resume"}
    before, found = 0, []
    for record in metrics:
        step = record["step"]
        if step != before + 1 and not (step <= before and step - 1 in begun):
            found.append(f"step {step} follows step {before}, and no start began there")
        before = step
    return found


def other_topology(events: Iterable[dict[str, Any]]) -> int | None:
    """The step after which a run had another number of ranks for the first time; None when it never had."""
    for event in events:
        if any(line.startswith(("ranks:", "parallel.")) for line in event.get("changed") or ()):
            return int(event["step"])
    return None


def differing(metrics: list[dict[str, Any]], expected: Mapping[int, float], changed: int | None) -> list[str]:
    """Losses that are not those of the undisturbed run: the same bits, and close after a change of topology.

    Args:
        expected: step -> loss; steps that it does not have are compared with their own first computation.
        changed: as `other_topology`.
    """
    found, first = [], dict(expected)
    for record in metrics:
        step, loss = record["step"], record["train/loss"]
        off = abs(loss - first.setdefault(step, loss)) if isinstance(loss, float) else float("inf")
        if not off <= (0.0 if changed is None or step <= changed else CLOSE):
            found.append(f"step {step} has loss {loss}, not {first[step]}")
    return found


def training(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records of steps."""
    return [record for record in records if "train/loss" in record]


def complaints(run: Path, expected: Mapping[int, float], hashes: Mapping[int, str], committed: int = 0) -> list[str]:
    """All of the above that can be seen in a run folder, and the hash of the samples of its newest checkpoint.

    Args:
        expected: step -> loss of the undisturbed run.
        hashes: step -> hash of the ids of all samples up to it.
        committed: newest committed step that was seen before the last start.
    """
    events, metrics = lines_of(run / "events.jsonl"), training(lines_of(run / "metrics.jsonl"))
    found = lost(events, committed) + two_owners(events) + broken_order(metrics, events)
    found += differing(metrics, expected, other_topology(events))[:5]
    saved = [*run.glob("checkpoints/step_*/COMMITTED")]
    newest = max(saved, key=lambda marker: marker.parent.name, default=None)
    if newest is not None:
        step, file = int(newest.parent.name.removeprefix("step_")), newest.with_name("trainer.json")
        hashed = json.loads(file.read_text())["data"]["ids_hash"] if file.is_file() else hashes.get(step)
        if hashed != hashes.get(step, hashed):
            found.append(f"the checkpoint of step {step} has read other samples: {hashed}, not {hashes[step]}")
    for event in events:
        if event["event"] == "finished" and event["ids_hash"] != hashes.get(event["step"], event["ids_hash"]):
            found.append(f"the run finished at step {event['step']} with other samples")
    return [f"{run.name}: {line}" for line in found]
