"""`make bench-gpu`: on a GPU, the kernels' correctness first, then every kernel against its peers and whole training steps.

Sections run in the order of their worth within --budget-seconds, each in processes of its own with a time limit. After each
the results are written (docs/benchmarks/gpu.json and gpu.md), so that a run that is cut off keeps what it has. A section that
fails or runs out of time says so in its own row and the next one starts. The whole grid of correctness tests is last: it takes
what is left. `--device cpu --tiny --output DIR` rehearses all of it without a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


from bench.gpu_goals import goals
from bench.record import FOLDER, ROOT, store, table, write
from megabiomed.processes import platform

WORKER = Path(__file__).with_name("gpu_step_worker.py")
TINY = ["--documents=20,1,11", "--heads=8", "--kv-heads=2", "--head-dim=16", "--intermediate=24", "--vocabulary=50"]
TINY += ["--repeats=1"]
# Once each of what differs between kernels: head sizes, documents of one token and of exactly a block, GQA, determinism.
SELECTION = "production_windows or bits or nothing or (full_grid and triton and bf16 and (ragged or exact) and gqa8)"
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Section:
    """A part of the benchmark: its rows, and the seconds it may take at most."""

    name: str
    limit_s: float
    rows: Callable[[Bench, float], Rows]


class Bench:
    """One run: what was asked for, what was found, where it is written."""

    def __init__(self, asked: argparse.Namespace, folder: Path) -> None:
        self.asked, self.folder = asked, folder
        self.ends = time.monotonic() + asked.budget_seconds
        self.found: dict[str, Rows] = {}
        self.roofline = "not measured"

    def run(self, sections: list[Section]) -> None:
        for section in sections:
            limit = min(section.limit_s, self.ends - time.monotonic())
            print(f"\n== {section.name}: {limit:.0f} s at most", flush=True)
            began = time.monotonic()
            if limit < (1 if self.asked.tiny else 10):
                self.found[section.name] = [{"case": section.name, "result": "not run: the budget is spent"}]
            else:
                self.found[section.name] = section.rows(self, limit)
            print(table(self.found[section.name]), flush=True)
            print(f"   {time.monotonic() - began:.0f} s", flush=True)
            self.write()

    def write(self) -> None:
        """All results so far, as JSON and as a page; the newest replaces the one before at once."""
        rows = [{"section": name, **row} for name, found in self.found.items() for row in found]
        notes = [
            f"roofline of the same run: {self.roofline}",
            "kernels: best of the repeats with the cache flushed before each; steps: median of 8 after 3",
        ]
        device = {"device": platform.describe(), "complete": not any("not run" in str(row) for row in rows)}
        store("gpu", rows, notes, self.asked.output, **device)
        page = [f"# {device['device']}", *notes]
        page += [f"## {name}\n\n{table(found)}" for name, found in self.found.items()]
        page.append(f"## Goals\n\n{table(goals(self.found))}")
        write(self.asked.output / "gpu.md", "\n\n".join(page) + "\n")

    def command(self, command: list[str], limit: float, **environment: str) -> str:
        """Run it with its output on the terminal; returns "" when it succeeded, else what went wrong."""
        try:
            done = subprocess.run(
                command, timeout=limit, env={**os.environ, **environment}, cwd=ROOT, stderr=subprocess.PIPE, text=True,
                check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"out of time after {limit:.0f} s"
        if done.returncode == 0:
            return ""
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return f"failed ({done.returncode}): {last[:200]}"


def tests(selection: str | None) -> Callable[[Bench, float], Rows]:
    """pytest on the device."""

    def rows(bench: Bench, limit: float) -> Rows:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu or not gpu"]
        command += [f"--timeout={limit:.0f}", str(ROOT / "tests" / "kernels")]
        command += ["-k", "bounds_are_read" if bench.asked.tiny else selection] if selection or bench.asked.tiny else []
        wrong = bench.command([part for part in command if part], limit)
        return [{"case": f"pytest {selection or 'whole grid'}"[:60], "result": wrong or "passed"}]

    return rows


def self_checks(bench: Bench, limit: float) -> Rows:
    """The Hopper kernels, by head size; `kernels.attention: hopper` refuses where this fails."""
    command = [sys.executable, "-m", "megabiomed.kernels.gluon.check", "--head-dim"]
    return [
        {
            "case": f"hopper self-check, head size {d}",
            "result": bench.command([*command, str(d)], limit / 2) or "passed",
        }
        for d in ((128,) if bench.asked.tiny else (128, 64))
    ]


def kernels(op: str, *extra: str) -> Callable[[Bench, float], Rows]:
    """`megabiomed bench kernels` for one operation at Llama2-7B's shapes."""

    def rows(bench: Bench, limit: float) -> Rows:
        output = bench.folder / f"{op}.json"
        output.unlink(missing_ok=True)
        command = [sys.executable, "-m", "megabiomed.cli", "bench", "kernels", "--op", op, "--output", str(output)]
        wrong = bench.command([*command, *(TINY if bench.asked.tiny else []), *extra], limit)
        found: Rows = []
        if output.exists():
            record = json.loads(output.read_text())
            bench.roofline = "{tflops:.4g} TFLOP/s, {gbytes:.4g} GB/s".format(**record["roofline"])
            found = [_kernel_row(row, extra) for row in record["rows"]]
        return [*found, {"case": op, "result": wrong}] if wrong else found

    return rows


def _kernel_row(row: dict[str, Any], extra: tuple[str, ...]) -> dict[str, Any]:
    def both(name: str, form: str) -> str:
        values = [row[f"{side}_{name}"] for side in ("forward", "backward")]
        return " / ".join(form.format(value) for value in values if value is not None)

    return {
        "case": row["case"] + (" deterministic" if "--deterministic" in extra else ""),
        "candidate": row["candidate"] + (" (auto)" if row["chosen"] else ""),
        "forward / backward ms": both("ms", "{:.3f}"),
        "rate": both("rate", "{}"),
        "of roofline": both("share", "{:.2f}"),
        "note": row["note"],
    }


def step(candidate: str) -> Callable[[Bench, float], Rows]:
    """One candidate's training step."""

    def rows(bench: Bench, limit: float) -> Rows:
        output = bench.folder / "step.json"
        output.unlink(missing_ok=True)
        command = [sys.executable, "-W", "ignore", str(WORKER), candidate, str(output), str(bench.asked.layers)]
        ranks = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
        wrong = bench.command(command, limit, **ranks, PYTHONPATH=str(WORKER.parents[1]))
        return [{"candidate": candidate, "result": wrong}] if wrong else [json.loads(output.read_text())]

    return rows


SECTIONS = [
    Section("self-check", 120, self_checks),
    Section("correctness", 120, tests(SELECTION)),
    Section("attention", 90, kernels("attention")),
    Section("step megabiomed", 90, step("megabiomed")),
    Section("step transformers", 90, step("transformers sdpa")),
    Section("step megabiomed hopper", 90, step("megabiomed hopper")),
    Section("norm", 40, kernels("norm")),
    Section("swiglu", 40, kernels("swiglu")),
    Section("loss", 40, kernels("loss")),
    Section("adamw", 40, kernels("adamw")),
    Section("attention GQA", 60, kernels("attention", "--kv-heads", "8")),
    Section("attention deterministic", 60, kernels("attention", "--deterministic")),
    Section("step transformers liger", 90, step("transformers sdpa liger")),
    Section("whole grid", 3600, tests(None)),
]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--budget-seconds", type=float, default=720, help="for everything; default 720")
    options.add_argument(
        "--only", action="append", metavar="SECTION", help="of: " + ", ".join(s.name for s in SECTIONS)
    )
    options.add_argument("--layers", type=int, default=0, help="blocks of 7B width in the step; 0 takes what fits")
    options.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    options.add_argument("--tiny", action="store_true", help="toy sizes, to see that everything runs")
    options.add_argument("--output", type=Path, default=FOLDER, help="folder of gpu.json and gpu.md")
    asked = options.parse_args()
    if asked.device == "cuda" and not platform.has_cuda():
        sys.exit("no CUDA device here; nothing measured (--device cpu --tiny --output DIR rehearses)")
    if asked.device == "cpu" and asked.output == FOLDER:
        sys.exit("a rehearsal needs --output: docs/benchmarks holds measurements")
    wanted = [section for section in SECTIONS if not asked.only or section.name in asked.only]
    asked.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        Bench(asked, Path(folder)).run(wanted)
    print(f"\nwritten: {asked.output / 'gpu.json'}, {asked.output / 'gpu.md'}")


if __name__ == "__main__":
    main()
