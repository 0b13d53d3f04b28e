"""Fine-tuning teaches: accuracy on held-out generated questions is clearly over the majority class, and was not before."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megabiomed.data.packing import MicroBatch, pack_window
from megabiomed.evaluate.single import load_alone
from megabiomed.samples.questions.encode import encode_prompt
from megabiomed.samples.questions.readers import read_questions
from megabiomed.samples.questions.templates import find_template, render


def accuracies(run: Path, file: Path) -> tuple[float, float]:
    """(share of the official test questions whose right option is the likeliest, share of the most frequent answer)."""
    model, engine = load_alone(run)
    tokenizer = model.tokenizer
    records = read_questions(file, "test").records
    _, template = find_template(None, "pubmedqa")
    right = 0
    for record in records:
        encoded = encode_prompt(tokenizer, render(template, record), 256)
        scores = []
        for option in encoded.options:
            ids = np.array([*encoded.prompt, *option])
            logits = engine.logits(MicroBatch.from_windows([pack_window(ids, ids[:0])]))  # [t - 1, v]
            chosen = logits.log_softmax(-1)[np.arange(len(ids) - 1), ids[1:]]
            scores.append(float(chosen[-len(option) :].sum()))
        right += int(np.argmax(scores)) == record.label
    majority = Counter(record.label for record in records).most_common(1)[0][1]
    return right / len(records), majority / len(records)


@pytest.mark.slow
@pytest.mark.timeout(580)
def test_a_tiny_model_learns_to_read_findings(command: Any, finetune_file: Path, tmp_path: Path) -> None:
    from megabiomed.samples.questions.generate import generate_questions

    generate_questions(tmp_path / "qa", train=600, test=100)
    file = tmp_path / "qa/pubmedqa/ori_pqal.json"
    common = [
        "finetune.start_from=null", f"finetune.train=[{{path: {file}}}]", "finetune.replay_share=0",
        "finetune.replay=[]", "finetune.validation=null",
        f"data.tokenizer={_tokenizer(finetune_file)}", "data.global_batch_size=8", "data.micro_batch_size=8",
        "optimizer.eps=1e-8", "lora=null", "optimizer.lr=4e-3",
    ]  # fmt: skip
    one, run = tmp_path / "one", tmp_path / "run"
    command("finetune", finetune_file, f"run_dir={one}", *common, "train.steps=1", "optimizer.lr=1e-9")
    command("finetune", finetune_file, f"run_dir={run}", *common, "train.steps=null", "train.epochs=6")
    before, majority = accuracies(one, file)
    after, _ = accuracies(run, file)
    assert before < majority + 0.15
    assert after > majority + 0.3


def _tokenizer(file: Path) -> Path:
    import yaml

    return Path(yaml.safe_load(file.read_text())["finetune"]["start_from"]) / "tokenizer.model"
