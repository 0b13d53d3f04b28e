"""Correctness on the device, each check in a process of its own: `check HEAD_SIZE`, `gradients`, or `pytest [SELECTION]`.

python -m bench.gpu_correctness OUTPUT UNIT...
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench.lines import Lines
from bench.record import ROOT


def check(lines: Lines, unit: str) -> None:
    kind, _, what = unit.partition(" ")
    if kind == "check":
        command = [sys.executable, "-m", "megabiomed.kernels.gluon.check", "--head-dim", what]
    elif kind == "gradients":
        command = [
            sys.executable,
            str(Path(__file__).with_name("gpu_gradient_check.py")),
            str(lines.beside("gradients.json")),
        ]
    else:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu or not gpu"]
        command += [str(ROOT / "tests" / "kernels"), *(["-k", what] if what else [])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout[-3000:], done.stderr[-3000:], flush=True)
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    last = said[-1][:200] if said else "no message"
    lines.row(case=unit[:60], candidate=unit[:60], result=last if not done.returncode else f"failed: {last}")


def main() -> None:
    lines = Lines(Path(sys.argv[1]))
    lines.each(sys.argv[2:], lambda unit: check(lines, unit))


if __name__ == "__main__":
    main()
