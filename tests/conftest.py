"""A tiny built corpus and a run file for end-to-end tests through the public command."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from support.runs import RUN
from support.workers import pytest_collection_modifyitems, pytest_xdist_make_scheduler, share_cores
from support.zygote import run_python

__all__ = ["pytest_collection_modifyitems", "pytest_xdist_make_scheduler"]

# Triton decides when it is imported whether kernels are interpreted, and other rooms' tests may import it first.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
share_cores()


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from megabiomed.corpus.build import BuildOptions, build_corpus
    from megabiomed.corpus.generate import write_records

    folder = tmp_path_factory.mktemp("corpus")
    write_records(folder / "records.jsonl.gz", 40, 0)
    build_corpus(
        BuildOptions([folder / "records.jsonl.gz"], folder / "c", vocab_size=600, validation_fraction=0.2, workers=1)
    )
    return folder / "c"


@pytest.fixture
def run_file(corpus: Path, tmp_path: Path) -> Path:
    file = tmp_path / "run.yaml"
    file.write_text(RUN.replace("CORPUS", str(corpus)))
    return file


@pytest.fixture
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `megabiomed ...`; fails the test when the exit code is not the expected one."""

    def run(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        words = ["-m", "megabiomed.cli", *map(str, arguments)]
        done = run_python(words, {**os.environ, "OMP_NUM_THREADS": "1"}, timeout_s=200)
        assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
        return done

    return run


@pytest.fixture(scope="module")
def alone() -> Iterator[None]:
    """A process group of one, in this process and without leaving a trace in the environment of others."""
    import torch.distributed as dist

    from megabiomed.processes import platform

    started = not dist.is_initialized()
    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    platform.init_alone()
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    if dist.is_initialized():
        platform.end_groups()
    if started:
        dist.destroy_process_group()
