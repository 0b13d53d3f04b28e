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
    from megabiomed.samples.multimodal.building import BuildSettings, build_dataset
    from megabiomed.samples.multimodal.generate import generate_questions
    from megabiomed.tokenizer.sentencepiece_bpe import train_tokenizer

    folder = tmp_path_factory.mktemp("qa")
    generate_questions(folder / "q.json", proteins=60)
    train_tokenizer(iter([(folder / "q.json").read_text()]), folder / "tokenizer.model", 400)
    build_dataset(
        [folder / "q.json"], folder / "qa", folder / "tokenizer.model", "random", BuildSettings("plain"), None, 0
    )
    return folder / "qa"


@pytest.fixture(scope="session")
def papers(questions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A token store of generated papers, made with the tokenizer of the questions."""
    from megabiomed.corpus.build import BuildOptions, build_corpus
    from megabiomed.corpus.generate import write_records

    folder = tmp_path_factory.mktemp("papers")
    write_records(folder / "records.jsonl.gz", 8, 0)
    tokenizer = questions.parent / "tokenizer.model"
    build_corpus(BuildOptions([folder / "records.jsonl.gz"], folder / "c", tokenizer=tokenizer, workers=1))
    return folder / "c/train"


@pytest.fixture(scope="session")
def watched(papers: Path) -> list[str]:
    """Overrides that evaluate texts between the steps."""
    from megabiomed.samples.questions.generate import generate_questions

    exams = papers.parent / "exams"
    generate_questions(exams, train=6, test=6)
    tasks = [
        {"name": "exam", "path": str(exams / "medmcqa/test.jsonl")},
        {"name": "open", "path": str(exams / "free/test.jsonl")},
    ]
    return [
        f"eval.tasks={tasks}",
        f"eval.perplexity={{papers: {papers}}}",
        "eval.every=1",
        "eval.limit=3",
        "eval.samples=3",
    ]


@pytest.fixture
def align_file(questions: Path, tmp_path: Path) -> Path:
    file = tmp_path / "align.yaml"
    file.write_text(RUN.replace("QA", str(questions)))
    return file
