"""Splits of the project's own questions, and a run file for all three stages."""

from __future__ import annotations

from pathlib import Path

import pytest

RUN = """
name: a
seed: 3
model: {base: tiny, vocab_size: 400, num_hidden_layers: 2, hidden_size: 64, intermediate_size: 96}
data: {seq_length: 96, micro_batch_size: 2, global_batch_size: 4}
optimizer: {warmup_steps: 2, eps: 1.0e-4}
train: {precision: fp32, eval_samples: 4}
parallel: {zero_stage: 1}
checkpoint: {save_every: 2}
tracking: {mlflow: false}
align:
  molecule: {num_layers: 2, hidden_size: 16}
  protein: {num_layers: 1, hidden_size: 16, num_attention_heads: 2}
  train: [{path: QA/train}]
  validation: QA/validation
  stages:
    - {name: one, steps: 4, adaptor_lr: 1.0e-2}
    - {name: two, steps: 3, molecule: full, protein: lora, encoder_lr: 1.0e-2}
    - {name: three, steps: 3, language_model: lora, lm_lr: 1.0e-2}
    - {name: four, steps: 2, language_model: full, lm_lr: 1.0e-3}
"""


@pytest.fixture(scope="session")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from megabiomed.align.building import build_dataset
    from megabiomed.align.generate import generate_questions
    from megabiomed.align.store import BuildSettings
    from megabiomed.corpus.tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("qa")
    generate_questions(folder / "q.json", proteins=60)
    train_tokenizer(iter([(folder / "q.json").read_text()]), folder / "tokenizer.model", 400)
    build_dataset(
        [folder / "q.json"], folder / "qa", folder / "tokenizer.model", "random", BuildSettings("plain"), None, 0
    )
    return folder / "qa"


@pytest.fixture
def align_file(questions: Path, tmp_path: Path) -> Path:
    file = tmp_path / "align.yaml"
    file.write_text(RUN.replace("QA", str(questions)))
    return file
