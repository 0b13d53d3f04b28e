"""`make bench-campaign`: random actions of an operator and faults on a private SLURM of four virtual nodes; after each one the
queue, `status` and the run are checked. The first thing that is wrong ends it with exit code 1.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CalledProcessError, TimeoutExpired
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.campaign_moves import MOVES, State, draw, mend
from bench.campaign_watch import Expected, Watch
from bench.fault_checks import lines_of
from bench.fault_cluster import place
from bench.record import store, table
from megabiomed.launch import records

NOTES = [
    "Runs of a tiny model, in turn 2 ranks with one spare node (ZeRO-1) and 4 ranks that may shrink to 2 (tensor parallel 2, "
    "ZeRO-3), a save every 10 steps, on four virtual nodes of one machine.",
    "After each action and every 2 s: one live job for a run; a reason in `status` for each run that waits or is over; no run "
    "that stands still. After each action: no start before the newest save, no save of a start that lost the run, "
    "steps in order, hash of all sample ids, losses of the undisturbed run (the same bits; 1e-5 after a change of topology).",
]  # fmt: skip


@dataclass
class Campaign:
    """Actions and what came of them."""

    state: State
    watch: Watch
    seed: int
    actions: int
    done: list[dict[str, Any]] = field(default_factory=list)
    began: float = 0.0

    def act(self, seconds: float) -> None:
        """All actions, spread over so many seconds."""
        self.began = began = time.monotonic()
        for number in range(1, self.actions + 1):
            self._one(number)
            self.watch.until(began + number * seconds / self.actions)
            if self.state.run.is_dir():
                self.watch.files()
            self._store()
            if self.watch.found:
                return

    def settle(self, patience_s: float) -> None:
        """The machine is whole again, and the last run goes to its end."""
        mend(self.state, nodes=True)
        self._answers()
        over = time.monotonic() + patience_s
        while not records.is_finished(self.state.run) and time.monotonic() < over and not self.watch.found:
            for name, needed in {"release": self.state.held, "resubmit": not self.state.live()}.items():
                if needed:
                    self._note(self.actions, name, MOVES[name][0](self.state))
            self.watch.until(time.monotonic() + 8)
        self.watch.files()
        if not records.is_finished(self.state.run) and not self.watch.found:
            self.watch.found.append(f"{self.state.run.name} did not finish within {patience_s:.0f} s")
        self._store()

    def _one(self, number: int) -> None:
        mend(self.state)
        self._answers()
        # Anew for each action: what one draws does not depend on how far the run had come at those before.
        self.state.dice = random.Random(f"{self.seed}-{number}")
        name = draw(self.state)
        try:
            said = MOVES[name][0](self.state)
        except AssertionError as error:
            said = str(error)
            self.watch.found.append(said)
        except (CalledProcessError, TimeoutExpired) as error:
            said = f"SLURM did not answer: {error}"
        self._note(number, name, said)

    def _note(self, number: int, name: str, said: str) -> None:
        at = time.monotonic() - self.began
        run, step = self.state.run.name, records.committed_step(self.state.run)
        said = said.replace(f"{self.state.place.folder}/", "")
        self.done.append({"at_s": round(at), "action": name, "run": run, "saved": step, "said": said})
        print(f"[{number}/{self.actions}, {at:.0f} s] {name} ({run}, step {step} saved): {said}", flush=True)

    def _answers(self) -> None:
        """Wait until the controller does."""
        over = time.monotonic() + 60
        while time.monotonic() < over:
            try:
                self.state.place.live()
                return
            except (CalledProcessError, TimeoutExpired):
                time.sleep(0.5)

    def rows(self) -> list[dict[str, Any]]:
        """How often each action was done."""
        counts = Counter(each["action"] for each in self.done)
        refused = Counter(each["action"] for each in self.done if each["said"][:2] in ("1:", "2:", "4:"))
        return [{"action": name, "count": counts[name], "refused": refused[name]} for name in MOVES if counts[name]]

    def _store(self) -> None:
        runs = [path for path in self.state.place.disk.iterdir() if (path / records.SLURM).is_dir()]
        begun = sum(each["kind"] == "begin" for run in runs for each in lines_of(run / "slurm" / "incarnations.jsonl"))
        self.totals = {
            "actions": len(self.done),
            "minutes": round((self.done[-1]["at_s"] if self.done else 0) / 60, 1),
            "runs_finished": len(self.watch.finished),
            "of_them_with_other_numbers_of_ranks": self.watch.shrunk,
            "starts": begun,
            "violations": self.watch.found,
        }
        store("campaign", self.rows(), NOTES, seed=self.seed, total=self.totals, actions=self.done)

    def explain(self) -> None:
        """Everything that helps to find out what went wrong."""
        print(f"\nseed {self.seed}, {len(self.done)} actions of {self.actions}:", *self.done, sep="\n")
        print("\nqueue:", self.state.place.live() if not self.state.away else "the controller is away")
        print("\nrecords:", *lines_of(self.state.run / "slurm" / "incarnations.jsonl")[-12:], sep="\n")
        print("\nlogs:", self.state.place.operator.logs(self.state.run)[-12000:])
        print("\nwrong:", *self.watch.found, sep="\n")


def main() -> None:
    """Act, check, print and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--actions", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=600, help="of each run")
    options = parser.parse_args()
    with place("campaign") as where:
        os.environ["SLURM_CONF"] = where.cluster.environment["SLURM_CONF"]
        (where.folder / "link").symlink_to(where.disk)
        state = State(where, options.steps)
        campaign = Campaign(state, Watch(state, Expected(where, options.steps)), options.seed, options.actions)
        campaign.act(options.minutes * 60)
        if not campaign.watch.found:
            campaign.settle(600)
        print(table(campaign.rows()), campaign.totals, sep="\n")
        if campaign.watch.found:
            campaign.explain()
            raise SystemExit(1)


if __name__ == "__main__":
    main()
