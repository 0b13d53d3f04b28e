"""Benchmarks are run by hand, so nothing else would notice that one no longer starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def test_every_benchmark_still_imports_what_it_measures() -> None:
    names = sorted(file.stem for file in FOLDER.glob("*.py") if not file.stem.startswith(("__", "test_")))
    assert "bench_cpu" in names
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(f'bench.{name}')"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *names],
        cwd=FOLDER.parent, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
