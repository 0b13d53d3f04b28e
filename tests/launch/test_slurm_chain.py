"""A whole chain on a real SLURM: data preparation, pretraining, an alignment stage by stage, scores."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from support.operator import Operator, run_words
from support.reference import Reference
from support.runs import events, losses

from megabiomed.samples.multimodal.generate import generate_questions

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
    generate_questions(tmp_path / "q.json", proteins=60)
    (tmp_path / "align.yaml").write_text(ALIGN)
    tokenizer = corpus / "tokenizer" / "tokenizer.model"
    build = ["dataset", "build", "q.json", "--output", "qa", "--template", "plain", "--tokenizer", str(tokenizer)]
    score = ["align-evaluate", "runs/a", "--split", "qa/test", "--samples", "4", "--max-new-tokens", "4"]
    stages = [
        {"name": "questions", "command": build, "makes": ["qa"]},
        {
            "name": "pretrain",
            "run": str(operator.run_file),
            "nodes": 2,
            "after": [],
            "overrides": run_words(tmp_path / "lm", STEPS),
        },
        {"name": "align", "run": "align.yaml", "after": ["questions", "pretrain"]},
        {"name": "scores", "command": [*score, "--output", "scores.json"]},
    ]
    (tmp_path / "chain.yaml").write_text(yaml.safe_dump({"name": "whole", "stages": stages}))
    return tmp_path / "chain.yaml"


def test_encoder_ranks_on_a_node_of_another_kind_go_on_after_a_requeue(
    operator: Operator, corpus: Path, tmp_path: Path, command: Any
) -> None:
    """The language model takes one node, its encoders take another one, of another partition and with more cores."""
    generate_questions(tmp_path / "q.json", proteins=60)
    words = ["dataset", "build", tmp_path / "q.json", "--output", tmp_path / "qa", "--template", "plain"]
    command(*words, "--tokenizer", corpus / "tokenizer" / "tokenizer.model")
    text = (
        ALIGN.replace("  language_model: lm\n", "")
        .replace("qa/", f"{tmp_path}/qa/")
        .replace("save_every: 0", "save_every: 5")
    )
    (tmp_path / "align.yaml").write_text(text)
    part = {"nodes": 1, "ranks_per_node": 2, "cpus_per_task": 2, "sbatch": {"partition": "low"}}
    stage = {"name": "align", "run": "align.yaml", "stage": "one", "components": [part],
             "overrides": ["align.dedicated_encoder_ranks=2", "align.stages.0.molecule=full", "align.stages.0.steps=60",
                           "align.protein.placement=zero3", f"run_dir={tmp_path / 'r'}"]}  # fmt: skip
    (tmp_path / "chain.yaml").write_text(yaml.safe_dump({"name": "het", "stages": [stage]}))
    # The shell that submits has a number of threads, which would be that of all nodes.
    operator.configure(
        environment={"OMP_NUM_THREADS": "", "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"},
        preflight=True, slow_factor=1e9,
        stage_in={"folder": str(tmp_path / "copies")},
    )  # fmt: skip
    (job,) = operator.submit(tmp_path / "chain.yaml", nodes=None).values()
    run = tmp_path / "r" / "one"
    operator.until(lambda: operator.step(run) >= 8, run, 600)
    with operator.frozen(run, 3):
        places = {rank: _environment(run, rank) for rank in range(4)}
        operator.cluster.run("scancel", "--batch", "--signal=USR1", job)
    first, second, third, fourth = (places[rank]["SLURMD_NODENAME"] for rank in range(4))
    assert first == second != third == fourth
    assert [places[rank]["OMP_NUM_THREADS"] for rank in range(4)] == ["1", "1", "2", "2"]
    assert "staged in: 2 of 2 nodes read " in (run / "slurm" / "job.log").read_text()
    operator.final(job, run, 900)
    assert operator.status(run)[0]["endings"][0]["decision"] == "requeue"
    alone = [*stage["overrides"][1:3], f"run_dir={tmp_path / 'alone'}", "--stage", "one"]
    command("align", tmp_path / "align.yaml", "--nproc", 1, *alone)
    assert losses(run) == pytest.approx(losses(tmp_path / "alone" / "one"), rel=1e-4)
    assert events(run)[-1]["ids_hash"] == events(tmp_path / "alone" / "one")[-1]["ids_hash"]


def _environment(run: Path, rank: int) -> dict[str, str]:
    """The variables of a rank that runs, on whatever node it is."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            known = process.environ()
            words = " ".join(process.cmdline())
            if known.get("SLURM_PROCID") == str(rank) and "runs.worker" in words and str(run) in words:
                return known
    raise AssertionError(f"rank {rank} of {run} does not run")


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
    assert (rows["align-two"]["starts"], rows["align-two"]["endings"][0]["decision"]) == (2, "requeue")
    assert {row["stage"]: row["state"] for row in operator.status(two)} == dict.fromkeys(ids, "FINISHED")
    assert json.loads((tmp_path / "scores.json").read_text())["scores"]

    operator.ends_as(tmp_path / "lm", reference, STEPS)
    words = [f"align.language_model={tmp_path / 'lm'}", f"align.train.0.path={tmp_path / 'qa/train'}"]
    words += [f"align.validation={tmp_path / 'qa/validation'}", f"run_dir={tmp_path / 'alone'}"]
    command("align", tmp_path / "align.yaml", "--nproc", 2, *words)
    for name in ("one", "two"):
        assert losses(two.parent / name) == losses(tmp_path / "alone" / name)
        assert events(two.parent / name)[-1]["ids_hash"] == events(tmp_path / "alone" / name)[-1]["ids_hash"]
