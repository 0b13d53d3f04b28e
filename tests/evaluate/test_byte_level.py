"""A byte-level BPE goes the whole way: corpus, training, conversations, evaluation, export that transformers talks with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from megabiomed.checkpoint.locate import locate
from megabiomed.config.models import ModelConfig
from megabiomed.corpus.build import BuildOptions, build_corpus
from megabiomed.corpus.generate import write_records
from megabiomed.evaluate.runner import Evaluation
from megabiomed.evaluate.settings import EvaluateSettings, parse_tasks
from megabiomed.evaluate.single import generate_text
from megabiomed.model.fresh import SeededInit
from megabiomed.model.hf_export import export_certified, export_hf
from megabiomed.processes.signals import StopFlag
from megabiomed.tokenizer.chat_template import Message
from megabiomed.tokenizer.files import COMPANIONS, open_in, open_tokenizer
from tests.support.byte_level import START, TURN_END, byte_level
from tests.support.in_process import train_here

MODEL = ModelConfig(
    kind="qwen2", vocab_size=448, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=256,
)  # fmt: skip


def train(folder: Path, name: str, **sections: Any) -> Path:
    """Two steps in this process; returns the run folder."""
    values: dict[str, Any] = {
        "model": MODEL.model_dump(mode="json"), "train": {"steps": 2, "precision": "fp32"},
        "tracking": {"mlflow": False}, "checkpoint": {"save_every": 0}, "optimizer": {"lr": 1e-3},
        "data": {"seq_length": 256, "micro_batch_size": 2, "global_batch_size": 4},
    }  # fmt: skip
    return train_here(folder, name, values | {key: {**values.get(key, {}), **keys} for key, keys in sections.items()})


def test_a_byte_level_tokenizer_goes_the_whole_way(alone: None, questions: Path, tmp_path: Path) -> None:
    tokenizer = open_tokenizer(byte_level(tmp_path / "tokenizer", vocab_size=400))
    write_records(tmp_path / "papers.jsonl.gz", 30, 0)
    build_corpus(BuildOptions([tmp_path / "papers.jsonl.gz"], tmp_path / "corpus", tokenizer=tokenizer.path, workers=1))
    base = export_hf(SeededInit(MODEL, 3), MODEL, tmp_path / "base", "fp32", tokenizer.path)
    store = {"train": [{"path": str(tmp_path / "corpus" / "train")}]}
    papers = train(tmp_path, "papers", model={"init_from": str(base)}, data=store)
    asked = {"start_from": str(papers), "train": [{"path": str(questions / "pubmedqa/ori_pqal.json"), "chat": True}]}
    answers = train(tmp_path, "answers", finetune=asked)

    tasks = parse_tasks([f"pubmedqa={questions}/pubmedqa/ori_pqal.json"], [], [])
    values = {"model": answers, "tasks": tasks, "output": tmp_path / "out", "window": 256, "chat": True, "limit": 2}
    assert Evaluation(EvaluateSettings.model_validate(values), StopFlag()).run() == "finished"

    checkpoint, out = locate(answers).open(), tmp_path / "export"
    certificate = export_certified(checkpoint, checkpoint, MODEL, out, "fp32", True, 10**9)
    certificate.check()
    assert certificate.tokenizer_sha256 == tokenizer.sha256 == open_in(out).sha256
    for name in COMPANIONS:
        assert (out / name).is_file() == tokenizer.path.with_name(name).is_file(), name
    theirs, model = AutoTokenizer.from_pretrained(out), AutoModelForCausalLM.from_pretrained(out)
    talk = [
        Message("user", f"What binds {TURN_END} the heart?"),
        Message("assistant", "The cell."),
        Message("user", "?"),
    ]
    plain = [{"role": each.role, "content": each.content.replace(TURN_END, "")} for each in talk]
    ours = tokenizer.require_chat().prompt([Message(each["role"], each["content"]) for each in plain])
    assert theirs.apply_chat_template(plain, add_generation_prompt=True)["input_ids"] == ours
    assert theirs(f"a{START}", split_special_tokens=True)["input_ids"] == tokenizer.encode(f"a{START}")
    x = torch.tensor([tokenizer.encode("the heart of", bos=True)])
    said = theirs.decode(model.generate(x, max_new_tokens=8, do_sample=False)[0], skip_special_tokens=True)
    assert said == generate_text(answers, "the heart of", 8, 0.0, 0)
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == tokenizer.stop_ids
