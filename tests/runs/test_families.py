"""Everything after an import works on every family: training, adapters, fine-tuning, alignment, evaluation, text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from support.families import tiny
from support.in_process import train_here
from support.runs import losses
from transformers import AutoModelForCausalLM

from megabiomed.align.chat import Chat, Sampling
from megabiomed.align.export import export_aligned
from megabiomed.checkpoint.locate import locate
from megabiomed.config.models import stored_model
from megabiomed.data.packing import MicroBatch, pack_window
from megabiomed.evaluate.model import open_model
from megabiomed.evaluate.runner import Evaluation
from megabiomed.evaluate.settings import EvaluateSettings, parse_tasks
from megabiomed.evaluate.single import generate_text, load_alone
from megabiomed.model.flops import parameter_count
from megabiomed.model.hf_config import model_config_from_hf
from megabiomed.model.hf_export import export_certified
from megabiomed.model.peft import export_adapter
from megabiomed.model.start_from import whole_model
from megabiomed.processes.signals import StopFlag
from megabiomed.samples.multimodal.records import MultimodalQuestion

pytestmark = [pytest.mark.usefixtures("alone"), pytest.mark.timeout(200)]
FAMILIES = {"llama": {"tie_word_embeddings": True}, "mistral": {}, "qwen2": {}, "qwen3": {}}
"""Changes of the tiny model of each family."""
ROWS, CONTEXT = 608, 256  # rows: more than the tokenizer has pieces
COMMON: dict[str, Any] = {
    "data": {"seq_length": 64, "micro_batch_size": 2, "global_batch_size": 4, "prefetch": 0},
    "optimizer": {"lr": 1e-2, "eps": 1e-4, "warmup_steps": 0, "schedule": "constant"},
    "train": {"steps": 2, "precision": "fp32", "eval_samples": 2},
    "parallel": {"zero_stage": 1}, "checkpoint": {"save_every": 0}, "tracking": {"mlflow": False},
}  # fmt: skip


class Imported(NamedTuple):
    """A family's model in a Hugging Face folder, and the keys of `model:` that name it."""

    family: str
    folder: Path
    keys: dict[str, Any]


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow) if name in ("mistral", "qwen2") else name for name in FAMILIES],
)
def imported(request: pytest.FixtureRequest, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Imported:
    family, folder = request.param, tmp_path_factory.mktemp(request.param) / "hf"
    sizes = {"vocab_size": ROWS, "max_position_embeddings": CONTEXT}
    model = tiny(family, **sizes, **FAMILIES[family])
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    shutil.copy(corpus / "tokenizer/tokenizer.model", folder)
    keys = model_config_from_hf(folder).model_dump(mode="json", exclude_defaults=True)
    return Imported(family, folder, {**keys, "kind": family})


@pytest.fixture(scope="module")
def pretrained(imported: Imported, corpus: Path) -> Path:
    values = {
        **COMMON, "model": {**imported.keys, "init_from": str(imported.folder)},
        "data": {**COMMON["data"], "train": [{"path": str(corpus / "train")}], "validation": str(corpus / "validation")},
    }  # fmt: skip
    return train_here(imported.folder.parent, "pretrain", values)


@pytest.fixture(scope="module")
def exams(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from megabiomed.samples.questions.generate import generate_questions

    folder = tmp_path_factory.mktemp("exams")
    generate_questions(folder, train=12, test=4)
    return folder


def finetuning(imported: Imported, exams: Path, began: Path) -> dict[str, Any]:
    return {
        **COMMON, "kind": "finetune", "model": imported.keys, "lora": {"rank": 2, "dropout": 0.1},
        "data": {**COMMON["data"], "seq_length": 256},
        "finetune": {"start_from": str(began), "train": [{"path": str(exams / "medmcqa/train.jsonl")}]},
    }  # fmt: skip


def logits_of(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(torch.tensor([ids]), use_cache=False).logits[0]
    return found


def ours(path: Path, ids: list[int]) -> torch.Tensor:
    window = pack_window(np.array([*ids, 0]), np.empty(0, np.int64))
    return load_alone(path)[1].logits(MicroBatch.from_windows([window]))


def test_a_pretrained_family_computes_and_says_what_its_export_does(
    imported: Imported, pretrained: Path, corpus: Path, tmp_path: Path
) -> None:
    assert sorted(losses(pretrained)) == [1, 2]
    checkpoint = locate(pretrained).open()
    model = stored_model(checkpoint.architecture, "there")
    found = export_certified(checkpoint, checkpoint, model, tmp_path / "hf", "fp32", True, 10**9)
    assert not found.problems()
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    assert theirs.config.model_type == imported.family
    assert parameter_count(model) == theirs.num_parameters()
    prompt = "The heart"
    tokenizer = open_model(pretrained).tokenizer
    ids = tokenizer.encode(prompt, bos=True)
    assert torch.allclose(ours(pretrained, ids), logits_of(theirs, ids), atol=1e-5)
    said = greedy(theirs, ids, 12, tokenizer)
    assert generate_text(pretrained, prompt, 12, 0.0, 0) == tokenizer.decode([*ids, *said])


def greedy(model: Any, ids: list[int], count: int, tokenizer: Any) -> list[int]:
    """Without a cache."""
    said: list[int] = []
    while len(said) < count:
        said.append(int(logits_of(model, [*ids, *said])[-1].argmax()))
        if said[-1] in tokenizer.stop_ids:
            break
    return tokenizer.until_stop(said)


def test_adapters_merged_and_in_peft_compute_as_they_were_trained(
    imported: Imported, pretrained: Path, exams: Path, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    for began in (imported.folder, pretrained):
        name = f"adapters-{began.name}"
        run = train_here(tmp_path, name, finetuning(imported, exams, began))
        checkpoint = locate(run).open()
        ids = list(range(5, 45))
        mine = ours(run, ids)
        model = stored_model(checkpoint.architecture, "there")
        found = export_certified(
            checkpoint, whole_model(checkpoint), model, tmp_path / f"{name}-merged", "fp32", True, 10**9
        )
        assert not found.problems()
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / f"{name}-merged").eval()
        assert torch.allclose(mine, logits_of(merged, ids), atol=2e-5)
        base = AutoModelForCausalLM.from_pretrained(imported.folder).eval()
        if began == imported.folder:
            export_adapter(checkpoint, tmp_path / f"{name}-peft")
            plain = logits_of(base, ids)
            adapted = peft.PeftModel.from_pretrained(base, tmp_path / f"{name}-peft").eval()
            assert torch.allclose(logits_of(adapted, ids), mine, atol=2e-5)
            assert not torch.allclose(plain, mine, atol=1e-4)


def test_a_fine_tuned_family_is_evaluated_as_transformers_does(
    imported: Imported, pretrained: Path, exams: Path, tmp_path: Path
) -> None:
    run = train_here(tmp_path, "full", {**finetuning(imported, exams, pretrained), "lora": None})
    assert sorted(losses(run)) == [1, 2]
    settings = EvaluateSettings.model_validate(
        {
            "model": run,
            "tasks": parse_tasks([f"a={exams / 'medmcqa/test.jsonl'}", f"f={exams / 'free/test.jsonl'}"], [], []),
            "output": tmp_path / "out",
            "window": 256,
            "limit": 3,
            "max_new_tokens": 4,
        }
    )
    assert Evaluation(settings, StopFlag()).run() == "finished"
    checkpoint = locate(run).open()
    model = stored_model(checkpoint.architecture, "there")
    export_certified(checkpoint, checkpoint, model, tmp_path / "hf", "fp32", True, 10**9)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    rows = [json.loads(line) for line in (tmp_path / "out/predictions_a.jsonl").read_text().splitlines()]
    evaluation = Evaluation(settings, StopFlag())
    for row, item in zip(rows, evaluation.tasks[0].items):
        for lp, r in zip(row["logprobs"], item.requests()):
            x = logits_of(theirs, r.prompt + r.continuation).log_softmax(-1)
            want = sum(float(x[len(r.prompt) - 1 + n, t]) for n, t in enumerate(r.continuation))
            assert lp == pytest.approx(want, abs=1e-4)
    rows = [json.loads(line) for line in (tmp_path / "out/predictions_f.jsonl").read_text().splitlines()]
    tok = open_model(run).tokenizer
    for row, item in zip(rows, evaluation.tasks[1].items):
        said = greedy(theirs, item.encoded.prompt, 4, tok)
        assert row["generated"] == tok.decode(said).strip()


@pytest.fixture(scope="module")
def questions(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from megabiomed.samples.multimodal.building import BuildSettings, build_dataset
    from megabiomed.samples.multimodal.generate import generate_questions

    folder = tmp_path_factory.mktemp("qa")
    generate_questions(folder / "q.json", proteins=20)
    build_dataset(
        [folder / "q.json"],
        folder / "qa",
        corpus / "tokenizer/tokenizer.model",
        "random",
        BuildSettings("plain"),
        None,
        0,
    )
    return folder / "qa"


def test_an_aligned_family_answers_as_its_export_does(
    imported: Imported, pretrained: Path, questions: Path, tmp_path: Path
) -> None:
    values = {
        **COMMON,
        "kind": "align",
        "model": imported.keys,
        "data": {**COMMON["data"], "seq_length": 128},
        "optimizer": {k: v for k, v in COMMON["optimizer"].items() if k != "lr"},
        "train": {"precision": "fp32", "eval_samples": 2},
        "align": {
            "language_model": str(pretrained),
            "molecule": {"num_layers": 1, "hidden_size": 16},
            "protein": {"num_layers": 1, "hidden_size": 16, "num_attention_heads": 2},
            "train": [{"path": str(questions / "train")}],
            "validation": str(questions / "validation"),
            "stages": [
                {"name": "one", "steps": 1, "adaptor_lr": 1e-2},
                {"name": "two", "steps": 1, "language_model": "lora", "lm_lr": 1e-2},
                {"name": "three", "steps": 1, "language_model": "full", "lm_lr": 1e-3},
            ],
        },
    }
    run = train_here(tmp_path, "align", values)
    asked = MultimodalQuestion("t", "What does this molecule contain?", "", {"molecule": ["CCBr"]})
    export_aligned(run, tmp_path / "export", "fp32")
    short = Sampling(max_new_tokens=8)
    chats = [Chat(run), Chat(tmp_path / "export"), Chat(tmp_path / "align/two")]
    said = [chat.answer(asked, short) for chat in chats]
    assert said[0] == said[1]
