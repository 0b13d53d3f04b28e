"""`make bench-gpu`: on a GPU, correctness first, then every kernel against its peers, then a whole training step against
transformers. On a machine without one it says so and stops; `--device-free` runs the same code on a CPU at toy sizes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.spawn import free_port

from bench.record import ROOT, store, table
from megabiomed import platform

WORKER = Path(__file__).with_name("gpu_step_worker.py")
STEPS = ("megabiomed", "transformers sdpa")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--device-free", action="store_true", help="toy sizes on a CPU, to see that everything runs")
    options.add_argument("--layers", type=int, default=0, help="blocks of 7B width in the step; 0 takes what fits")
    options.add_argument("--skip-tests", action="store_true")
    asked = options.parse_args()
    if not platform.has_cuda() and not asked.device_free:
        sys.exit("no CUDA device here; nothing measured (use --device-free to run the code at toy sizes)")
    if platform.has_cuda() and not asked.skip_tests:
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu or not gpu", str(ROOT / "tests" / "kernels")]
        subprocess.run(command, check=True, cwd=ROOT)
    with tempfile.TemporaryDirectory() as folder:
        rows, roofline = kernel_rows(Path(folder))
        steps = [step_row(name, asked, Path(folder)) for name in STEPS]
    print(table(rows))
    print(table(steps))
    if platform.has_cuda():
        notes = [
            f"roofline of the same run: {roofline}",
            f"device: {platform.describe()}",
            "best of 10 repeats, cache flushed",
        ]
        print(store("gpu", [*rows, *steps], notes))


def kernel_rows(folder: Path) -> tuple[list[dict[str, Any]], str]:
    """`megabiomed bench kernels` at Llama2-7B's shapes with MHA and GQA, as rows of one table."""
    rows: list[dict[str, Any]] = []
    roofline = ""
    for extra in ([], ["--op", "attention", "--kv-heads", "8"], ["--op", "attention", "--deterministic"]):
        output = folder / "kernels.json"
        command = [sys.executable, "-m", "megabiomed.cli", "bench", "kernels", "--output", str(output), *extra]
        subprocess.run(command, check=True)
        found = json.loads(output.read_text())
        roofline = f"{found['roofline']['tflops']:.1f} TFLOP/s, {found['roofline']['gbytes']:.0f} GB/s"
        rows += [
            {
                "case": row["case"] + (" deterministic" if "--deterministic" in extra else ""),
                "candidate": row["candidate"] + (" (auto)" if row["chosen"] else ""),
                "forward ms": round(row["forward_ms"], 3),
                "backward ms": round(row["backward_ms"], 3),
                "of roofline": f"{row['forward_share']:.2f} / {row['backward_share']:.2f}",
            }
            for row in found["rows"]
            if row["forward_ms"] is not None
        ]
    return rows, roofline


def step_row(candidate: str, asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One candidate's training step in its own process."""
    output = folder / "step.json"
    environment = {
        **os.environ, "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()), "PYTHONPATH": str(WORKER.parents[1]),
    }  # fmt: skip
    command = [sys.executable, "-W", "ignore", str(WORKER), candidate, str(output), str(asked.layers)]
    subprocess.run(command, check=True, env=environment)
    row: dict[str, Any] = json.loads(output.read_text())
    return row


if __name__ == "__main__":
    main()
