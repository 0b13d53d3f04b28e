"""A tiny model in a Hugging Face folder, generated questions in published layouts, and a run file."""

from __future__ import annotations

from pathlib import Path

import pytest

RUN = """
name: f
seed: 3
model: {base: tiny, vocab_size: 600, num_hidden_layers: 2, hidden_size: 64, intermediate_size: 96}
data: {seq_length: 256, micro_batch_size: 2, global_batch_size: 4}
optimizer: {lr: 1.0e-3, warmup_steps: 2, eps: 1.0e-4}
train: {steps: 5, precision: fp32, eval_samples: 4}
parallel: {zero_stage: 1}
checkpoint: {save_every: 0}
tracking: {mlflow: false}
lora: {rank: 4, dropout: 0.1}
finetune:
  start_from: BASE
  train:
    - {path: QA/pubmedqa/ori_pqal.json, limit: 60}
    - {path: QA/medmcqa/train.jsonl, limit: 40, repeat: 2}
  validation: {path: QA/medmcqa/test.jsonl}
  replay: [{path: CORPUS/train}]
  replay_share: 0.25
"""


@pytest.fixture(scope="session")
def base(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from megabiomed.config import load_config
    from megabiomed.model.fresh import SeededInit
    from megabiomed.model.hf_export import export_hf

    file = tmp_path_factory.mktemp("base") / "run.yaml"
    file.write_text(RUN.split("lora:")[0])
    model = load_config(file).model
    tokenizer = corpus / "tokenizer/tokenizer.model"
    return export_hf(SeededInit(model, 5), model, file.with_name("hf"), "fp32", tokenizer)


@pytest.fixture(scope="session")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from megabiomed.samples.questions.generate import generate_questions

    folder = tmp_path_factory.mktemp("questions")
    generate_questions(folder, train=80, test=20)
    return folder


@pytest.fixture
def finetune_file(base: Path, questions: Path, corpus: Path, tmp_path: Path) -> Path:
    file = tmp_path / "finetune.yaml"
    file.write_text(RUN.replace("BASE", str(base)).replace("QA", str(questions)).replace("CORPUS", str(corpus)))
    return file
