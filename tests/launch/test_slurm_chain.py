"""A whole chain on a real SLURM: data preparation, pretraining, an alignment stage by stage, scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.operator import Operator, run_words
from support.reference import Reference
from support.runs import events, losses

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(1800)]
STEPS = 12
ALIGN = """
name: a
seed: 3
model: {base: tiny, vocab_size: 600, num_hidden_layers: 2, hidden_size: 64, intermediate_size: 96}
data: {seq_length: 96, micro_batch_size: 2, global_batch_size: 4}
optimizer: {warmup_steps: 2, eps: 1.0e-4}
train: {precision: fp32, eval_samples: 4}
parallel: {zero_stage: 1}
checkpoint: {save_every: 0}
tracking: {mlflow: false}
align:
  molecule: {num_layers: 2, hidden_size: 16}
  protein: {num_layers: 1, hidden_size: 16, num_attention_heads: 2}
  language_model: lm
  train: [{path: qa/train}]
  validation: qa/validation
  stages:
    - {name: one, steps: 4, adaptor_lr: 1.0e-2}
    - {name: two, steps: 30, molecule: full, protein: full, encoder_lr: 1.0e-3}
"""


@pytest.fixture
def chain(operator: Operator, corpus: Path, tmp_path: Path) -> Path:
    from megabiomed.align.generate import generate_questions

    generate_questions(tmp_path / "q.json", proteins=60)
    (tmp_path / "align.yaml").write_text(ALIGN)
    tokenizer = corpus / "tokenizer" / "tokenizer.model"
    build = ["dataset", "build", "q.json", "--output", "qa", "--template", "plain", "--tokenizer", str(tokenizer)]
    score = ["align-evaluate", "runs/a", "--split", "qa/test", "--samples", "4", "--max-new-tokens", "4"]
    stages = [
        {"name": "questions", "command": build, "makes": ["qa"]},
        {"name": "pretrain", "run": str(operator.run_file), "nodes": 2, "after": [],
         "overrides": run_words(tmp_path / "lm", STEPS)},
        {"name": "align", "run": "align.yaml", "after": ["questions", "pretrain"]},
        {"name": "scores", "command": [*score, "--output", "scores.json"]},
    ]  # fmt: skip
    (tmp_path / "chain.yaml").write_text(yaml.safe_dump({"name": "whole", "stages": stages}))
    return tmp_path / "chain.yaml"


def test_every_kind_of_stage_runs_and_an_interrupted_alignment_goes_on(
    operator: Operator, chain: Path, tmp_path: Path, reference: Reference, command: Any
) -> None:
    ids = operator.submit(chain, nodes=None)
    assert list(ids) == ["questions", "pretrain", "align-one", "align-two", "scores"]
    two = tmp_path / "runs" / "a" / "two"
    operator.until(lambda: operator.step(two) >= 2, two, 900)
    with operator.frozen(two, 1):
        operator.cluster.run("scancel", "--batch", "--signal=USR1", ids["align-two"])
        assert "RUNNING" in operator.type("status", two, "--json")
    operator.final(ids["scores"], tmp_path / "runs" / "whole-scores", 900)
    rows = {row["stage"]: row for row in operator.status(tmp_path / "runs" / "a")}
    assert {name: row["state"] for name, row in rows.items()} == {"align-one": "FINISHED", "align-two": "FINISHED"}
    assert (rows["align-two"]["incarnations"], rows["align-two"]["endings"][0]["decision"]) == (2, "requeue")
    assert {row["stage"]: row["state"] for row in operator.status(two)} == dict.fromkeys(ids, "FINISHED")
    assert json.loads((tmp_path / "scores.json").read_text())["scores"]

    operator.ends_as(tmp_path / "lm", reference, STEPS)
    words = [f"align.language_model={tmp_path / 'lm'}", f"align.train.0.path={tmp_path / 'qa/train'}"]
    words += [f"align.validation={tmp_path / 'qa/validation'}", f"run_dir={tmp_path / 'alone'}"]
    command("align", tmp_path / "align.yaml", "--nproc", 2, *words)
    for name in ("one", "two"):
        assert losses(two.parent / name) == losses(tmp_path / "alone" / name)
        assert events(two.parent / name)[-1]["ids_hash"] == events(tmp_path / "alone" / name)[-1]["ids_hash"]
