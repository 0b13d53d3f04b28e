"""`make bench-launch`: seconds from a fault to the next step of a real job on a private SLURM, restarted in its allocation
or requeued, and the calls of the controller for `status` of 100 runs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.operator import Operator, run_words
from support.runs import RUN, events
from support.slurm import MiniSlurm

from bench.record import store, table
from megabiomed.corpus.build import BuildOptions, build_corpus
from megabiomed.corpus.generate import write_records
from megabiomed.launch import records

WAYS: dict[str, dict[str, Any]] = {
    "restart in the allocation": {"restart_in_allocation": True, "spare_nodes": 1},
    "requeue": {"restart_in_allocation": False},
}
HANG_S = 20
NOTES = [
    "2 nodes x 2 ranks (gloo) of a tiny model, four virtual nodes on one machine; each rank imports torch anew.",
    "total_s: from the injection of the fault to the first new step; beyond_imports_s: without the ranks' imports.",
    "A requeued job may start 6 s later here (cred_expire=5); SLURM's default is 121 s, and a busy queue comes on top.",
    f"stopped rank: train.hang_timeout_s={HANG_S}, which is part of total_s.",
]
CLIENTS = ("squeue", "scontrol", "sacct", "sinfo")


def first_steps(run: Path) -> list[dict[str, Any]]:
    """The events `first_step` of a run."""
    return (
        [event for event in events(run) if event["event"] == "first_step"] if (run / "events.jsonl").is_file() else []
    )


def stepped(run: Path, starts: int) -> bool:
    """Whether so many starts of a run have made a step."""
    return len(first_steps(run)) >= starts


def trained(operator: Operator, run: Path, count: int) -> None:
    """Wait for the first step of so many starts, and for a save after it: a failure then begins the budget again."""
    operator.until(partial(stepped, run, count), run, 400)
    saved = records.committed_step(run)
    operator.until(lambda: records.committed_step(run) > saved, run, 400)


def inject(operator: Operator, run: Path, fault: str, start: int) -> None:
    """Do it; not twice in a row on one node, which the job would avoid from then on."""
    if fault == "killed node":
        nodes = operator.cluster.run("scontrol", "show", "hostnames", records.last_begin(run)["nodes"]).split()
        operator.cluster.power_off(nodes[1])
    else:
        operator.kill_rank(run, 3 if start % 2 else 1, signal.SIGKILL if fault == "killed rank" else signal.SIGSTOP)


def recoveries(operator: Operator, folder: Path, fault: str, way: str, count: int) -> list[dict[str, float]]:
    """Seconds of so many recoveries; a job loses one node at most, so each lost node is one of a job of its own."""
    found: list[dict[str, float]] = []
    operator.configure(**WAYS[way], time="02:00:00")
    each = 1 if fault == "killed node" else count
    while len(found) < count:
        run = folder / f"{fault}-{way}-{len(found)}".replace(" ", "_")
        words = run_words(run, 100_000, "checkpoint.keep_last=2", f"train.hang_timeout_s={HANG_S}")
        operator.submit(None, *words)
        for start in range(1, each + 1):
            trained(operator, run, start)
            inject(operator, run, fault, start)
            began = time.time()
            operator.until(partial(stepped, run, start + 1), run, 400)
            total, imports = time.time() - began, first_steps(run)[-1]["phases"].get("imports", 0.0)
            found.append({"total_s": total, "beyond_imports_s": total - imports})
            print(fault, way, {key: round(value, 1) for key, value in found[-1].items()}, flush=True)
        operator.cluster.recover()
        shutil.rmtree(run)
    return found


def summary(fault: str, way: str, found: list[dict[str, float]]) -> dict[str, Any]:
    """A row of the table."""
    row: dict[str, Any] = {"fault": fault, "way": way, "count": len(found)}
    for key in found[0]:
        values = sorted(each[key] for each in found)
        row[f"{key} median"] = round(statistics.median(values), 1)
        row[f"{key} p95"] = round(values[math.ceil(0.95 * len(values)) - 1], 1)
    return row


def controller_calls(operator: Operator, folder: Path) -> int:
    """How often `status` of 100 runs calls a client of SLURM."""
    (job,) = operator.submit(None, *run_words(folder / "runs" / "0", 5)).values()
    for number in range(1, 100):
        shutil.copytree(folder / "runs" / "0" / "slurm", folder / "runs" / str(number) / "slurm")
    tools, calls = folder / "bin", folder / "calls"
    tools.mkdir()
    for name in CLIENTS:
        real = shutil.which(name)
        (tools / name).write_text(f'#!/bin/bash\necho {name} >> {calls}\nexec {real} "$@"\n')
        (tools / name).chmod(0o755)
    environment = {**operator.cluster.environment, "PATH": f"{tools}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "megabiomed.cli", "status", str(folder / "runs"), "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert len(json.loads(done.stdout)) == 100
    operator.cluster.run("scancel", job)
    return len(calls.read_text().splitlines())


def main() -> None:
    """Measure, print and store; after each fault, so that an interrupted benchmark has its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=10, help="killed ranks for each way")
    parser.add_argument("--others", type=int, default=3, help="lost nodes and stopped ranks for each way")
    options = parser.parse_args()
    faults = {"killed rank": options.ranks, "killed node": options.others, "stopped rank": options.others}
    with tempfile.TemporaryDirectory(prefix="bench-launch-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        write_records(folder / "records.jsonl.gz", 40, 0)
        sources = [folder / "records.jsonl.gz"]
        build_corpus(BuildOptions(sources, folder / "c", vocab_size=600, validation_fraction=0.2, workers=1))
        (folder / "run.yaml").write_text(RUN.replace("CORPUS", str(folder / "c")))
        cluster = MiniSlurm(folder / "slurm")
        try:
            cluster.start()
            operator, rows = Operator(cluster, folder, folder / "run.yaml"), []
            calls = controller_calls(operator, folder)
            cluster.recover()
            for fault, count in faults.items():
                for way in WAYS if count else ():
                    rows.append(summary(fault, way, recoveries(operator, folder, fault, way, count)))
                    store("launch", rows, NOTES, controller_calls_of_status_for_100_runs=calls)
            print(table(rows), f"controller calls for status of 100 runs: {calls}", sep="\n")
        finally:
            cluster.stop()


if __name__ == "__main__":
    main()
