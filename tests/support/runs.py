"""What a run folder says about a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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


def losses(run_dir: Path) -> dict[int, float]:
    """step -> training loss, as metrics.jsonl holds it to the last bit."""
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return {r["step"]: r["train/loss"] for r in records if "train/loss" in r}


def events(run_dir: Path) -> list[dict[str, Any]]:
    """The events of a run."""
    return [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
