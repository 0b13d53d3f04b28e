"""`make bench-goodput`: the share of the time in which a run makes steps that count, with a fault every three minutes, on a
private SLURM of four virtual nodes: two with ranks, two spares.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.reference import Reference

from bench.fault_checks import complaints, lines_of, training
from bench.fault_cluster import Place, place
from bench.fault_kinds import ENDS_START, KINDS, LASTS_S, undo
from bench.goodput_figures import GOAL, by_kind, goodput, plan
from bench.record import store, table
from megabiomed.launch import records

WORDS = [
    "train.steps=1000000", "train.log_every=1", "train.hang_timeout_s=15", "optimizer.schedule=constant",
    "optimizer.lr=3e-4", "parallel.tensor_parallel_size=1", "parallel.data_parallel_size=2", "parallel.zero_stage=1",
    "model.hidden_size=128", "model.intermediate_size=256", "data.micro_batch_size=8", "data.global_batch_size=64",
    "checkpoint.save_every=10", "checkpoint.keep_last=2", "health.check_every=1",
]  # fmt: skip
CLUSTER = {"tasks_per_node": 1, "spare_nodes": 2, "max_failures": 8, "time": "04:00:00"}
NOTES = [
    "2 ranks (gloo) of a small model on two of four virtual nodes of one machine, two are spares; a save every 10 steps.",
    "goodput: seconds of the steps that stand / (wall - imports); wall: from the first step to the end; imports: those of the "
    "starts after a fault. Steps that were done again after a fault count once.",
    "recovery_s: from the fault to the first new step of the next start, imports included; for a full disk to the next save, "
    "for a dead controller 0 where steps went on. Hang time-out: 15 s, which is part of the recovery of a stopped rank.",
    "A node is powered on after 60 s, the disk is freed after 60 s, the controller starts again after 30 s. "
    "The node that loses power is never the head node of the job.",
]  # fmt: skip


@dataclass
class Goodput:
    """One run and the faults that it met."""

    place: Place
    run: Path
    minutes: float
    every_s: float
    seed: int
    faults: list[dict[str, Any]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def measure(self) -> dict[str, Any]:
        """Submit, strike, and store after each fault."""
        self.place.configure(**CLUSTER)
        self.place.operator.submit(None, f"run_dir={self.run}", *WORDS)
        self.place.operator.until(lambda: self.place.operator.step(self.run) >= 12, self.run, 300)
        began, dice = time.time(), random.Random(self.seed)
        kinds = plan(list(KINDS), max(1, round(self.minutes * 60 / self.every_s)), self.seed)
        for number, kind in enumerate(kinds):
            # In the midst of its share of the time, so that the last one is recovered from in time.
            self._until(began + (number + 0.4) * self.every_s)
            self.faults.append({"at_s": round(time.time() - began, 1), **self._strike(kind, dice)})
            print(f"[{number + 1}/{len(kinds)}]", self.faults[-1], flush=True)
            self._store(time.time() - began)
        self._until(began + self.minutes * 60)
        return self._store(time.time() - began)

    def _until(self, when: float) -> None:
        while time.time() < when:
            time.sleep(0.2)

    def _strike(self, kind: str, dice: random.Random) -> dict[str, Any]:
        starts, committed = len(self._starts()), records.committed_step(self.run)
        said, struck = KINDS[kind](self.place, self.run, dice), time.time()
        at = self._step()
        over = struck + LASTS_S.get(kind, 0.0)
        condition = partial(self._begun, starts) if kind in ENDS_START else lambda: time.time() >= over
        if kind not in ENDS_START:
            self._until(over)
            undo(self.place, kind, said)
            if kind == "disk full":
                condition = partial(self._saved, committed)
        self.place.operator.until(condition, self.run, 400)
        took = time.time() - (struck if kind in ENDS_START else over)
        again = self._starts()[starts:]
        if kind == "node powered off":
            self._until(over)
            undo(self.place, kind, said)
        return {
            "fault": kind,
            "did": said,
            "recovery_s": round(took if kind in (*ENDS_START, "disk full") else 0.0, 1),
            "imports_s": round(sum(start["phases"].get("imports", 0.0) for start in again), 1),
            "steps_lost": max(0, at - (again[0]["step"] - 1)) if again else 0,
            "steps_at_risk": max(0, at - committed),
            "starts": len(again),
        }

    def _begun(self, starts: int) -> bool:
        return len(self._starts()) > starts

    def _saved(self, committed: int) -> bool:
        return records.committed_step(self.run) > committed

    def _starts(self) -> list[dict[str, Any]]:
        return [each for each in lines_of(self.run / "events.jsonl") if each["event"] == "first_step"]

    def _steps(self) -> Iterator[dict[str, Any]]:
        yield from training(lines_of(self.run / "metrics.jsonl"))

    def _step(self) -> int:
        return max((record["step"] for record in self._steps()), default=0)

    def _store(self, wall_s: float) -> dict[str, Any]:
        """Figures up to now."""
        metrics = list(self._steps())
        imports = [start["phases"].get("imports", 0.0) for start in self._starts()[1:]]
        hashes = Reference(self.place.folder, self.place.run_text, WORDS, 0).hashes(records.committed_step(self.run))
        self.broken = complaints(self.run, {}, hashes)
        self.broken += [f"{f['fault']}: {f['steps_lost']} steps" for f in self.faults
                        if f["steps_lost"] > f["steps_at_risk"]]  # fmt: skip
        total = goodput(metrics[12:], imports, wall_s)
        more: dict[str, Any] = {
            "seed": self.seed,
            "total": total,
            "goal": GOAL,
            "faults": self.faults,
            "violations": self.broken,
        }
        store("goodput", by_kind(self.faults), NOTES, **more)
        return total


def main() -> None:
    """Measure, print and store; exit code 1 when something was lost or the goal was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--every", type=float, default=180, help="seconds between faults")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with place("goodput") as where:
        bench = Goodput(where, where.disk / "run", options.minutes, options.every, options.seed)
        total = bench.measure()
    print(table(by_kind(bench.faults)), total, *bench.broken, sep="\n")
    if bench.broken or total["goodput"] < GOAL:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
