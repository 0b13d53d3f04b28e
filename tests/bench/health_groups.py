"""The groups of ranks of `make bench-health`: which events go into which run, and what came of it."""

from __future__ import annotations

import json
import shutil
import statistics
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from support.runs import events, losses
from support.spawn import run_ranks

from bench.health_plan import BATCH, WARM, Plan, spaced
from bench.health_ranks import Stopper
from megabiomed.checkpoint.catalog import list_checkpoints
from megabiomed.checkpoint.logical import Box
from megabiomed.checkpoint.reader import Checkpoint

WORKER = Path(__file__).with_name("health_worker.py")
ORDINARY = {"start", "first_step", "save", "rewind", "finished", "ended", "stopped", "slow_rank_over"}
"""Events of a run in which nothing is wrong, or that answer one that is."""
Result = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """What the command was asked for."""

    events: int
    clean_steps: int
    hang_limit_s: float
    corpus: Path


@dataclass(frozen=True)
class Group:
    """One group of ranks, or two that are compared.

    Attributes:
        settings: by which a result that was kept is known to be of the same measurement.
    """

    kind: str
    engine: str
    asked: Asked
    events: int
    work: Callable[[Group, Path], Result]
    policy: str = ""

    @property
    def name(self) -> str:
        """Of its file."""
        return "-".join(part for part in (self.kind, self.policy, self.engine) if part)

    @property
    def settings(self) -> list[Any]:
        return [self.events, self.asked.clean_steps if self.kind == "clean" else 0, self.asked.hang_limit_s]

    def measure(self, folder: Path) -> Result:
        """Run it in this folder, which is removed before and after."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        result = {"kind": self.kind, "engine": self.engine, "policy": self.policy, **self.work(self, folder)}
        shutil.rmtree(folder)
        return result

    def plan(self, folder: Path, steps: int, at: tuple[int, ...] = (), **overrides: dict[str, Any]) -> Plan:
        """A run of so many steps in a folder."""
        return Plan(self.kind, self.engine, str(self.asked.corpus), str(folder), 1, steps, at, overrides)


def train(plan: Plan, beside: Callable[[], Result] = dict) -> tuple[list[Result], Result]:
    """Run the ranks of a plan: what each of them found, and what `beside` gave, which is done meanwhile."""
    plan.place.mkdir(exist_ok=True)
    plan.write(plan.place / "plan.json")
    results: list[Result] = []
    failures: list[BaseException] = []

    def alongside() -> None:
        try:
            results.append(beside())
        except BaseException as error:
            failures.append(error)

    other = threading.Thread(target=alongside)
    other.start()
    run_ranks(plan.world, [str(WORKER), str(plan.place / "plan.json")], plan.place / "logs" / "ranks", 3600)
    other.join()
    if failures:
        raise failures[0]
    found = [json.loads((plan.place / f"found_{rank}.json").read_text()) for rank in range(plan.world)]
    return found, results[0]


def final_state(folder: Path) -> dict[tuple[str, str], bytes]:
    """All weights and moments of the newest checkpoint."""
    checkpoint = Checkpoint.open(list_checkpoints(folder / "checkpoints")[0].path, "hash")
    return {
        (name, kind): checkpoint.read(Box.whole(name, shape), kind).numpy().tobytes()
        for name, shape in checkpoint.shapes.items() for kind in checkpoint.manifest.kinds()
    }  # fmt: skip


def skipped_samples(folder: Path) -> list[tuple[int, int]]:
    """(first, number) of what a run passed over."""
    return Checkpoint.open(list_checkpoints(folder / "checkpoints")[0].path).trainer.data.skipped


def bad_steps(group: Group, folder: Path) -> Result:
    """A run with bad batches under skip or rewind, and one that never reads what the first one passed over."""
    gap = 4 if group.policy == "skip" else 12
    first = WARM if group.kind == "garbage" else gap
    at = spaced(group.events, gap, group.plan(folder, 0).dice("at"), first)
    steps = first + gap * group.events + gap
    health = {"non_finite": group.policy, "spike": group.policy, "budget": 10**6}
    keep = {"save_every": 10 if group.policy == "rewind" else 0, "keep_last": 2}
    plan = group.plan(folder / "run", steps, at, health=health, checkpoint=keep, train={"log_every": 1})
    found, _ = train(plan)
    told = [event for event in events(plan.place) if event["event"] in ("non_finite", "spike")]
    wanted = {(step - 1) * BATCH for step in at}
    met = {event["samples"][0] for event in told}
    result: Result = {
        "events": len(at), "found": len(wanted & met), "alarms": len(met - wanted), "steps": steps,
        **_cost(group.policy, found[0], plan.place, told),
    }  # fmt: skip
    passed = skipped_samples(plan.place)
    left_out = sum(number for _, number in passed) // BATCH if group.policy == "skip" else 0
    clean = replace(
        plan, kind="none", folder=str(folder / "without"), steps=steps - left_out, avoid=tuple(passed), at=()
    )
    train(clean)
    same_loss = losses(plan.place)[steps] == losses(clean.place)[clean.steps]
    return result | {"exact": same_loss and final_state(plan.place) == final_state(clean.place)}


def _cost(policy: str, found: Result, folder: Path, told: list[dict[str, Any]]) -> Result:
    seconds = statistics.median(found["step_s"])
    if policy == "skip":
        return {"lost_steps": 1.0, "lost_s": round(seconds, 4), "step_s": round(seconds, 4)}
    back = [event["step"] - event["to_step"] for event in events(folder) if event["event"] == "rewind"]
    lost = statistics.mean(back) if back else 0.0
    took = statistics.median(found["rewind_s"]) if back else 0.0
    return {"lost_steps": round(lost, 1), "lost_s": round(lost * seconds + took, 4), "step_s": round(seconds, 4)}


def bits(group: Group, folder: Path) -> Result:
    """Flipped bits in one long run, which goes back to a sound state after each."""
    gap = 4
    at = spaced(group.events, gap, group.plan(folder, 0).dice("at"), first=8)
    steps = 8 + gap * group.events + gap
    plan = group.plan(folder / "run", steps, at, health={"check_every": 1, "non_finite": "skip", "budget": 10**6})
    found, _ = train(plan)
    told = found[0]["told"]
    late = [each["step"] - each["at"] + 1 for each in told]
    return {
        "events": len(at), "found": len({each["at"] for each in told}), "alarms": found[0]["alarms"], "steps": steps,
        "after_steps": round(statistics.mean(late), 2) if late else None,
    }  # fmt: skip


def failing_saves(group: Group, folder: Path) -> Result:
    """Storage that is away again and again in one run, and the same run without."""
    gap, every = 20, 10
    at = tuple(number * gap + every for number in range(group.events))
    steps = gap * group.events + gap
    away = {"tries": 2.0}
    plan = group.plan(
        folder / "run", steps, at, checkpoint={"save_every": every, "keep_last": 3}, train={"log_every": 1}
    )
    plan = replace(plan, settings=away)
    train(plan)
    told = [event for event in events(plan.place) if event["event"] == "save_failed"]
    saved = [event["step"] for event in events(plan.place) if event["event"] == "save"]
    names = {"disk_full": "No space left", "eio": "Input/output error"}[group.kind]
    ends = (*at[1:], steps + 1)
    noticed = [
        begin for begin, end in zip(at, ends)
        if any(begin <= event["step"] < end and names in event["error"] for event in told)
    ]  # fmt: skip
    recovered = sum(any(begin < step < end for step in saved) for begin, end in zip(at, ends))
    sound = [Checkpoint.open(item.path, "hash").step for item in list_checkpoints(plan.place / "checkpoints")]
    clean = replace(plan, kind="none", folder=str(folder / "without"), at=())
    train(clean)
    exact = losses(plan.place) == losses(clean.place) and final_state(plan.place) == final_state(clean.place)
    alarms = sum(names not in event["error"] for event in told)
    return {
        "events": len(at), "found": len(noticed), "alarms": alarms, "steps": steps, "recovered": recovered,
        "tries": len(told), "sound": len(sound), "exact": exact and steps in sound,
    }  # fmt: skip


def stopped(group: Group, folder: Path) -> Result:
    """Ranks that are stopped by SIGSTOP one after another in one long run."""
    limits = {"hang_timeout_s": group.asked.hang_limit_s}
    plan = group.plan(folder / "run", 10**7, train={**limits, "log_every": 10**6})
    _, told = train(plan, lambda: Stopper(plan, group.asked.hang_limit_s).run(group.events))
    seconds = told.pop("seconds")
    return {"events": group.events, **told, "after_s": round(statistics.median(seconds), 2) if seconds else None}


def slowed(group: Group, folder: Path) -> Result:
    """One rank after another that takes longer than the others for three windows of steps, by the shipped settings."""
    gap, last = 50, 32
    window = 10
    at = tuple(1 + gap + number * gap for number in range(group.events))
    steps = gap * (group.events + 1)
    plan = group.plan(folder / "run", steps, at, train={"log_every": window})
    plan = replace(plan, settings={"more_s": 0.03, "for_steps": last})
    train(plan)
    told = [event for event in events(plan.place) if event["event"] == "slow_rank"]
    right = {
        begin for begin in at for event in told
        if begin <= event["step"] < begin + last + window and event["rank"] == plan.dice(begin).randrange(plan.world)
    }  # fmt: skip
    return {"events": len(at), "found": len(right), "alarms": len(told) - len(right), "steps": steps}


def clean(group: Group, folder: Path) -> Result:
    """Steps with every detector switched on and nothing wrong."""
    steps = group.asked.clean_steps // len(ALL)
    plan = group.plan(folder / "run", steps, health={"spike": "warn", "check_every": 100})
    found, _ = train(plan)
    told = [event for event in events(plan.place) if event["event"] not in ORDINARY]
    return {
        "steps": steps, "alarms": len(told), "told": told[:20], "step_s": round(statistics.median(found[0]["step_s"]), 4),
    }  # fmt: skip


def _each(work: Callable[[Group, Path], Result], engines: tuple[str, ...], policies: tuple[str, ...] = ("",)) -> Any:
    """Groups of a kind: its events in equal parts over the engines; a tenth of them for each policy behind the first."""

    def groups(kind: str, asked: Asked) -> list[Group]:
        made = []
        for policy in policies:
            wanted = asked.events if policy == policies[0] else -(-asked.events // 10)
            for number, engine in enumerate(engines):
                part = (wanted + len(engines) - 1 - number) // len(engines)
                made.append(Group(kind, engine, asked, part, work, policy))
        return [group for group in made if group.events or kind == "clean"]

    return groups


ALL = ("zero1", "zero3", "tp2")
KINDS: dict[str, Callable[[str, Asked], list[Group]]] = {
    "nan": _each(bad_steps, ALL, ("skip", "rewind")),
    "garbage": _each(bad_steps, ALL, ("skip", "rewind")),
    "parameter": _each(bits, ALL),
    "moment": _each(bits, ALL),
    "gradient": _each(bits, ("zero0",)),  # the others have no reduced gradient that two ranks hold
    "stopped": _each(stopped, ALL),
    "slowed": _each(slowed, ALL),
    "disk_full": _each(failing_saves, ALL),
    "eio": _each(failing_saves, ALL),
    "clean": _each(clean, ALL),
}
"""Groups of each kind of event."""
