"""`make bench-gpu`: kernels, training steps, saves and starts on one GPU against their peers, in sections of minutes.

    python -m bench.bench_gpu --list
    python -m bench.bench_gpu --section attention --section step --budget-seconds 300

Every section is a command of its own and takes at most four minutes, all of them at most twelve. Each row is written when it
is measured (docs/benchmarks/gpu.json and gpu.md), beside what earlier runs of other sections measured, so that a run that is
cut off keeps what it has. Processes have time limits; one that fails or hangs says so in a row, and what comes after it goes
on. `--device cpu --tiny --output DIR` rehearses without a GPU.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.gpu_results import Results
from bench.gpu_sections import SECTIONS, Asked, Part, Section, read_lines
from bench.record import FOLDER, ROOT, commit, table
from megabiomed.processes import platform

LONGEST_TABLE = 30  # lines of a table on the terminal; the files hold all
SHORTEST_S = 5.0  # no process starts with less


class Bench:
    """One run of some sections."""

    def __init__(self, asked: Asked, results: Results, folder: Path, budget_s: float) -> None:
        self.asked = asked
        self.results = results
        self.folder = folder
        self.ends = time.monotonic() + budget_s

    def section(self, section: Section) -> None:
        """Run its processes, one after another."""
        ends = min(self.ends, time.monotonic() + section.limit_s)
        print(f"\n== {section.name}: {max(0.0, ends - time.monotonic()):.0f} s at most", flush=True)
        began, began_at = time.monotonic(), self.results.added
        for part in section.parts(self.asked):
            started = time.monotonic()
            self.part(section.name, part, ends)
            print(f"   {part.name}: {time.monotonic() - started:.0f} s", flush=True)
        for name, rows in self.results.since(began_at).items():
            print(f"\n{name}\n{table(rows[:LONGEST_TABLE])}", flush=True)
        self.results.add("time", {"case": section.name, "seconds": round(time.monotonic() - began)})
        if time.monotonic() < ends and not self.asked.units:
            self.results.finish(section.name)

    def part(self, section: str, part: Part, ends: float) -> None:
        """Run a process to its end, and again for the units that come after one at which it died."""
        units = [unit for unit in part.units if not self.asked.units or unit in self.asked.units]
        while units or not part.units:
            limit = min(part.limit_s, ends - time.monotonic())
            if limit < SHORTEST_S:
                for unit in units or [part.name]:
                    self.results.add(section, {"case": part.name, "candidate": unit, "result": "not run: no time left"})
                return
            output = self.folder / f"{time.monotonic_ns()}.json"
            told = _Told(self.results, section, part, output)
            wrong = run([*part.command, str(output), *units], limit, told, part.environment)
            left = units[units.index(told.last) + 1 :] if told.last in units else units[1:]
            if wrong and told.unfinished(units):
                self.results.add(section, {"case": part.name, "candidate": told.last, "result": wrong})
            if not (wrong and left):
                return
            units = left


class _Told:
    """What a process has written so far."""

    def __init__(self, results: Results, section: str, part: Part, output: Path) -> None:
        self.results = results
        self.section = section
        self.read = part.read
        self.output = output
        self.seen = 0
        self.last = part.name
        self.done = False
        self.began = time.monotonic()

    def __call__(self) -> None:
        """Take what is new."""
        found = self.read(self.output)
        for line in found[self.seen :]:
            if "begin" in line:
                self.last = line["begin"]
                self.done = False
                self.began = time.monotonic()
            elif "end" in line:
                self.done = True
                took = round(time.monotonic() - self.began)
                self.results.add("time", {"case": self.section, "candidate": self.last, "seconds": took})
            else:
                section = line.pop("section", self.section)
                self.results.add(section, line)
                if section == self.section and self.read is read_lines:  # other programs print their rows themselves
                    print("  ", ", ".join(str(value) for value in line.values() if value != ""), flush=True)
        self.seen = len(found)

    def unfinished(self, units: Sequence[str]) -> bool:
        """Whether the process ended before the unit that it was at; one without units has failed as a whole."""
        return not units or not self.done


def run(command: list[str], limit: float, poll: Callable[[], None], environment: dict[str, str]) -> str:
    """Run a process with its output on the terminal; returns "" when it succeeded, else what went wrong."""
    paths = [str(ROOT / "tests"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONWARNINGS": "ignore", **environment}
    ends = time.monotonic() + limit
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, cwd=ROOT, env=variables, stderr=errors, start_new_session=True)
        while process.poll() is None and time.monotonic() < ends:
            time.sleep(0.2)
            poll()
        late = process.poll() is None
        if late:
            os.killpg(process.pid, 9)
        process.wait()
        poll()
        errors.seek(0)
        said = errors.read().strip().splitlines()
    if late:
        return f"out of time after {limit:.0f} s"
    if process.returncode:
        print("\n".join(said[-25:]), flush=True)
        return f"failed ({process.returncode}): {(said or ['no message'])[-1][:200]}"
    return ""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--list", action="store_true", help="show the sections, in the order of their worth")
    options.add_argument("--section", action="append", choices=[s.name for s in SECTIONS], help="repeat; default: all")
    options.add_argument("--unit", action="append", default=[], help="only this candidate of the sections; repeat")
    options.add_argument("--budget-seconds", type=float, default=720, help="for everything; default 720")
    options.add_argument("--layers", type=int, default=6, help="blocks of 7B width in a training step; default 6")
    options.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    options.add_argument("--tiny", action="store_true", help="toy sizes, to see that everything runs")
    options.add_argument("--output", type=Path, default=FOLDER, help="folder of gpu.json and gpu.md")
    options.add_argument("--commit", default=commit(), help="of the code, where the checkout is a plain copy")
    asked = options.parse_args()
    if asked.list:
        for section in SECTIONS:
            units = [unit for part in section.parts(Asked(asked.tiny, asked.layers)) for unit in part.units]
            print(f"{section.name:18s} {section.limit_s:4.0f} s at most  {section.about}")
            print(f"{'':18s}   units: {' | '.join(units)}" if units else "", end="\n" if units else "")
        return
    if asked.device == "cuda" and not platform.has_cuda():
        sys.exit("no CUDA device here; nothing measured (--device cpu --tiny --output DIR rehearses)")
    if asked.device == "cpu" and asked.output == FOLDER:
        sys.exit("a rehearsal needs --output: docs/benchmarks holds measurements")
    output = asked.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    results = Results(output, asked.commit)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Asked(asked.tiny, asked.layers, tuple(asked.unit)), results, Path(folder), asked.budget_seconds)
        wanted = [s for s in SECTIONS if (asked.section is None and s.by_default) or s.name in (asked.section or [])]
        for section in sorted(wanted, key=lambda s: asked.section.index(s.name) if asked.section else 0):
            bench.section(section)
    print(f"\nwritten: {output / 'gpu.json'}, {output / 'gpu.md'}")


if __name__ == "__main__":
    main()
