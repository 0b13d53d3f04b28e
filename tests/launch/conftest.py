"""One SLURM cluster for all tests of this folder, and runs on it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import slurm
from support.operator import TOPOLOGY, Operator
from support.runs import RUN


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[slurm.MiniSlurm]:
    reason = slurm.missing()
    if reason:
        pytest.skip(reason)
    found = slurm.MiniSlurm(tmp_path_factory.mktemp("slurm"))
    try:
        found.start()
        yield found
    finally:
        found.stop()


@pytest.fixture
def operator(cluster: slurm.MiniSlurm, tmp_path: Path, run_file: Path) -> Iterator[Operator]:
    yield Operator(cluster, tmp_path, run_file)
    cluster.recover()


@pytest.fixture(scope="session")
def untouched(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Callable[[int], Path]:
    """The run that nobody interrupts, by its number of steps."""
    folder = tmp_path_factory.mktemp("untouched")
    (folder / "run.yaml").write_text(RUN.replace("CORPUS", str(corpus)))

    def of(steps: int) -> Path:
        run = folder / str(steps)
        if not run.is_dir():
            words = ["pretrain", str(folder / "run.yaml"), f"run_dir={run}", f"train.steps={steps}", *TOPOLOGY]
            command = [sys.executable, "-m", "megabiomed.cli", *words]
            subprocess.run(
                command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, capture_output=True, timeout=200
            )
        return run

    return of
