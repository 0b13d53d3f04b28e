"""`make bench-checkpoint`: the pause that training sees, time to commit, time to load and memory, on 2 processes, ours
against torch.distributed.checkpoint and DeepSpeed's own save, of the same engines and state in one run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.spawn import run_ranks

from bench.checkpoint_worker import CANDIDATES
from bench.lost_time import AFTER, GOAL, INTERVAL
from bench.record import store, table

WORKER = Path(__file__).with_name("checkpoint_worker.py")
OWN = {"zero_stage": "megabiomed, ZeRO-3", "engine": "megabiomed, FSDP2"}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--hidden", type=int, default=768)
    options.add_argument("--layers", type=int, default=12)
    options.add_argument("--rounds", type=int, default=3, help="timed saves and loads")
    options.add_argument("--tokens", type=int, default=128, help="of a rank in the steps whose lost time is measured")
    options.add_argument("--folder", type=Path, help="where to save (default: a temporary folder)")
    options.add_argument("--dry", action="store_true", help="print only, leave docs/benchmarks alone")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        measured = {candidate: measure(candidate, Path(name), asked) for candidate in CANDIDATES}
    rows = [row(candidate, result, measured) for candidate, result in measured.items()]
    print(table(rows))
    if asked.dry:
        return
    first = next(iter(measured.values()))
    notes = [
        f"hidden size {asked.hidden}, {asked.layers} layers, fp32 masters and two moments, {first['state_mib']:.0f} MiB a "
        "rank; 2 processes of 1 thread, gloo; the slower rank counts",
        f"lost: pause + sum over the {AFTER} steps after a save of (step - median of undisturbed steps), first save and worst "
        f"of the others; goal: at most {GOAL:.0%} of {INTERVAL} steps",
        f"medians of {asked.rounds} saves after those and of {asked.rounds} loads with the files in the page cache",
        "pause/memcpy: one copy of the same tensors into memory that is already there; time ratios: peer / ours of the same "
        "engine, above 1 means ours is faster",
        "peak: anonymous memory above where it stood before the save or the load; ours and DCP flush to disk (fsync), "
        "DeepSpeed does not; only ours hashes what it writes",
    ]
    print(store("checkpoint", rows, notes))


def measure(candidate: str, folder: Path, asked: argparse.Namespace) -> dict[str, float]:
    print(f"{candidate} ...", flush=True)
    output, target = folder / "result.json", folder / "checkpoints"
    sizes = [str(asked.hidden), str(asked.layers), str(asked.rounds), str(asked.tokens)]
    run_ranks(2, [str(WORKER), candidate, str(target), str(output), *sizes], folder / "logs", 1800)
    shutil.rmtree(target)
    result: dict[str, float] = json.loads(output.read_text())
    return result


def row(candidate: str, result: dict[str, float], measured: dict[str, dict[str, float]]) -> dict[str, Any]:
    own = measured[OWN[next(iter(CANDIDATES[candidate]))]]
    return {
        "candidate": candidate,
        "pause s": round(result["pause_s"], 3),
        "pause/memcpy": round(result["pause_s"] / result["memcpy_s"], 2),
        "first pause s": round(result["first_pause_s"], 3),
        "step s": round(result["median_step_s"], 3),
        "lost s, first / later": f"{result['first_lost_s']:.2f} / {result['later_lost_s']:.2f}",
        f"lost, of {INTERVAL} steps": f"{result['share']:.2%}",
        "slowest step / median": round(max(result["first_slowest_step"], result["later_slowest_step"]), 2),
        "committed after steps": round(result["later_steps_until_committed"]),
        "commit s": round(result["commit_s"], 2),
        "load s": round(result["load_s"], 2),
        "save peak MiB": round(max(result["first_save_peak_mib"], result["save_peak_mib"])),
        "load peak MiB": round(result["load_peak_mib"]),
        "files MiB": round(result["files_mib"]),
        "pause, peer/ours": round(result["pause_s"] / own["pause_s"], 2),
        "commit, peer/ours": round(result["commit_s"] / own["commit_s"], 2),
        "load, peer/ours": round(result["load_s"] / own["load_s"], 2),
    }


if __name__ == "__main__":
    main()
