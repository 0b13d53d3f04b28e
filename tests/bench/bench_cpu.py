"""`make bench-cpu`: tokens/s and memory of a 27.7 M-parameter Llama on 2 processes, ours against transformers' Llama under
DeepSpeed ZeRO-3 and under torch FSDP2, on the same packed data and weights, in interleaved rounds of one run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.spawn import run_ranks

from bench.cpu_worker import OURS
from bench.record import store, table
from megabiomed.corpus.build import BuildOptions, build_corpus
from megabiomed.corpus.generate import write_records

PEERS = ("transformers + deepspeed zero3 dp2", "transformers + fsdp2 dp2")
WORKER = Path(__file__).with_name("cpu_worker.py")
_BEFORE = ", other checkout"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seq-length", type=int, default=2048, help="tokens per window; BioMedGPT's is 2048")
    options.add_argument("--batch", type=int, default=2, help="windows per step")
    options.add_argument("--steps", type=int, default=3, help="timed steps of each round")
    options.add_argument("--rounds", type=int, default=1)
    options.add_argument(
        "--against", type=Path, help="another checkout, measured in the same rounds in place of the peers"
    )
    asked = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_records(folder / "records.jsonl.gz", 400, 0)
        build_corpus(BuildOptions([folder / "records.jsonl.gz"], folder / "corpus", vocab_size=8192))
        others = PEERS if asked.against is None else tuple(f"{name}{_BEFORE}" for name in OURS)
        measured: dict[str, list[dict[str, float]]] = {candidate: [] for candidate in (*OURS, *others)}
        for number in range(asked.rounds):
            for candidate, results in measured.items():
                print(f"round {number + 1}/{asked.rounds}: {candidate}", flush=True)
                results.append(measure(candidate, folder, asked))
    rows = [summary(candidate, results) for candidate, results in measured.items()]
    best = max(row["useful tokens/s"] for row in rows if row["candidate"] in others)
    for row in rows:
        row["vs best peer" if asked.against is None else "vs best before"] = f"{row['useful tokens/s'] / best:.2f}"
    print(table(rows))
    if asked.against is not None:
        return
    notes = [
        f"27.7 M parameters (configs/models/tiny-30m.yaml), fp32, {asked.batch} windows of {asked.seq_length} tokens per "
        "step, micro-batch 1; documents of the generated corpus",
        f"2 processes of 1 thread, gloo; {asked.rounds} rounds of {asked.steps} timed steps, medians",
        "peers get the document mask as a dense mask, the only form in which transformers takes one on a CPU",
        "first loss is equal for all: the same weights, data and masks",
    ]
    print(store(f"cpu-{asked.seq_length}", rows, notes))


def measure(candidate: str, folder: Path, asked: argparse.Namespace) -> dict[str, float]:
    output = folder / "result.json"
    output.unlink(missing_ok=True)
    sizes = [str(asked.seq_length), str(asked.batch), str(asked.steps)]
    checkout = asked.against if candidate.endswith(_BEFORE) else None
    worker = WORKER if checkout is None else checkout / "tests" / "bench" / WORKER.name
    command = [str(worker), candidate.removesuffix(_BEFORE), str(folder / "corpus" / "train"), str(output), *sizes]
    run_ranks(2, command, folder / "logs", 600, checkout)
    result: dict[str, float] = json.loads(output.read_text())
    return result


def summary(candidate: str, results: list[dict[str, float]]) -> dict[str, Any]:
    def median(key: str) -> float:
        return statistics.median(result[key] for result in results)

    speeds = [result["useful_tokens_per_s"] for result in results]
    return {
        "candidate": candidate,
        "useful tokens/s": round(median("useful_tokens_per_s")),
        "min-max": f"{min(speeds):.0f}-{max(speeds):.0f}",
        "s/step": round(median("seconds_per_step"), 3),
        "peak MiB (both)": round(median("peak_memory_mib_all_processes")),
        "first loss": round(median("first_loss"), 5),
    }


if __name__ == "__main__":
    main()
