"""A tiny built corpus and a run file for end-to-end tests through the public command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

# Triton decides when it is imported whether kernels are interpreted, and other rooms' tests may import it first.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

RUN = """
name: t
model: {base: tiny, vocab_size: 600, num_hidden_layers: 2, hidden_size: 64, intermediate_size: 96}
data:
  train: [{path: CORPUS/train}]
  validation: CORPUS/validation
  seq_length: 64
  micro_batch_size: 2
  global_batch_size: 8
optimizer: {lr: 3.0e-3, warmup_steps: 2}
train: {steps: 6, precision: fp32, eval_samples: 4}
parallel: {tensor_parallel_size: 2, zero_stage: 3}
checkpoint: {save_every: 0}
tracking: {mlflow: false}
"""


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
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "megabiomed.cli", *map(str, arguments)],
            env=environment, capture_output=True, text=True, timeout=200,
        )  # fmt: skip
        assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
        return done

    return run
