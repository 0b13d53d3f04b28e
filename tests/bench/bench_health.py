"""`make bench-health`: events that spoil a run, injected into real runs of 2 to 4 processes, and clean steps beside them:
how many are noticed, how soon, how many alarms are false, and what each policy costs.

What is done already is kept and not repeated with the same numbers; `--fresh` forgets it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.health_groups import KINDS, Asked, Group
from bench.health_tables import NOTES, alarms, detections, policies
from bench.record import ROOT, store, table, write
from megabiomed.corpus.build import BuildOptions, build_corpus
from megabiomed.corpus.generate import write_records

KEPT = ROOT / "runs" / "bench-health"


@dataclass
class Progress:
    """A line for each group that ends, with the time that the others may take."""

    total: int
    done: int = 0
    measured: int = 0
    seconds: float = 0.0

    def ended(self, group: Group, result: dict[str, Any], measured: bool) -> None:
        """Say so."""
        self.done += 1
        if measured:
            self.measured, self.seconds = self.measured + 1, self.seconds + result["seconds"]
        left = (self.total - self.done) * self.seconds / max(1, self.measured)
        said = ", ".join(
            f"{key} {result[key]}" for key in ("events", "found", "steps", "alarms", "exact") if key in result
        )
        took = f"{result['seconds']:.0f} s" if measured else "kept"
        print(f"[{self.done}/{self.total}, {left:.0f} s left] {group.name}: {said} ({took})", flush=True)


def main() -> None:
    """Measure what is missing, print, store."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--events", type=int, default=200, help="of each kind, spread over its engines")
    options.add_argument("--clean-steps", type=int, default=20_000, help="spread over the engines")
    options.add_argument("--kind", choices=KINDS, action="append", help="one kind alone; may be given several times")
    options.add_argument("--hang-limit", type=float, default=0.75, help="seconds until the hang guard speaks")
    options.add_argument("--fresh", action="store_true", help="forget what is kept")
    options.add_argument("--dry", action="store_true", help="print only, leave docs/benchmarks alone")
    chosen = options.parse_args()
    asked = Asked(chosen.events, chosen.clean_steps, chosen.hang_limit, _corpus())
    results = {}
    groups = [group for kind in KINDS if not chosen.kind or kind in chosen.kind for group in KINDS[kind](kind, asked)]
    progress = Progress(len(groups))
    for group in groups:
        file = KEPT / f"{group.name}.json"
        held = None if chosen.fresh or not file.exists() else json.loads(file.read_text())
        if held is None or held["settings"] != group.settings:
            began = time.monotonic()
            result = group.measure(KEPT / "run" / group.name)
            result["seconds"] = round(time.monotonic() - began, 1)
            write(file, json.dumps({"settings": group.settings, "result": result}))
        else:
            result = held["result"]
        results[group.name] = result
        progress.ended(group, result, measured=held is None or held["settings"] != group.settings)
    tables = {"detection": detections(results), "policies": policies(results), "clean": alarms(results)}
    for rows in tables.values():
        print(table(rows) + "\n" if rows else "", end="")
    if not chosen.dry and not chosen.kind:
        print(store("health", tables["detection"], NOTES, policies=tables["policies"], clean=tables["clean"]))


def _corpus() -> Path:
    """Generated papers, built once."""
    folder = KEPT / "corpus"
    if not (folder / "train").is_dir():
        write_records(KEPT / "records.jsonl.gz", 200, 0)
        build_corpus(BuildOptions([KEPT / "records.jsonl.gz"], folder, vocab_size=600, workers=1))
    return folder


if __name__ == "__main__":
    main()
