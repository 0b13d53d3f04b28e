"""Fine-tuning through the public command: interrupted, on another topology, exported, and fed with wrong input."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from support.runs import events, losses
from transformers import AutoModelForCausalLM

from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.config import ModelConfig
from megabiomed.config.topology import check_run
from megabiomed.evaluate.model import open_model
from megabiomed.evaluate.single import load_alone
from megabiomed.ground.errors import CheckpointError, DataError
from megabiomed.model.hf_export import export_certified
from megabiomed.model.peft import export_adapter
from megabiomed.model.start_from import whole_model
from megabiomed.runs.kinds import FINETUNE, read_run
from megabiomed.runs.start import StartOptions, start
from megabiomed.samples.questions.store import BuildSettings, build_store
from megabiomed.tokenizer.extend import extend_tokenizer
from megabiomed.tokenizer.files import open_tokenizer

DRY = StartOptions(nproc=1, dry_run=True)
TP2_ZERO3 = ["parallel.tensor_parallel_size=2", "parallel.sequence_parallel=true", "parallel.zero_stage=3"]


@pytest.mark.timeout(280)
def test_adapters_stop_resume_on_another_topology_and_are_exported(
    command: Any, finetune_file: Path, base: Path, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    command("finetune", finetune_file, f"run_dir={whole}")
    command("finetune", finetune_file, f"run_dir={parts}", "train.stop_after=2")
    resumed = command("finetune", finetune_file, f"run_dir={parts}", *TP2_ZERO3)
    assert "data order: identical from sample 8 on" in resumed.stdout
    assert losses(parts) == pytest.approx(losses(whole), rel=2e-5)
    assert events(parts)[-1]["ids_hash"] == events(whole)[-1]["ids_hash"]
    checkpoint = Checkpoint.open(parts / "checkpoints/step_00000005")
    assert len(checkpoint.shapes) == 2 * 7 * 2  # A and B of seven matrices in two layers, nothing else
    _check_exports(checkpoint, base, tmp_path)


def _check_exports(checkpoint: Checkpoint, base: Path, folder: Path) -> None:
    """Merged weights, peft on the base, and our own single process compute the same, and not what the base computes."""
    model = ModelConfig(**checkpoint.architecture)
    found = export_certified(checkpoint, whole_model(checkpoint), model, folder / "merged", "fp32", True, 10**9)
    assert not found.problems()
    ids = torch.arange(40)[None] + 5
    merged, plain = (AutoModelForCausalLM.from_pretrained(path)(ids).logits for path in (folder / "merged", base))
    assert float((merged - plain).detach().abs().max()) > 1e-3
    _, engine = load_alone(checkpoint.path)
    ours = engine.logits(_batch(ids[0]))
    assert torch.allclose(ours, merged[0], atol=2e-5)
    export_adapter(checkpoint, folder / "adapter")
    peft = pytest.importorskip("peft")
    adapted = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder / "adapter")
    assert torch.allclose(adapted(ids).logits, merged, atol=2e-5)
    named = json.loads((folder / "adapter/adapter_config.json").read_text())
    assert named["base_model_name_or_path"] == str(base)


def _batch(ids: torch.Tensor) -> Any:
    import numpy as np

    from megabiomed.data.packing import MicroBatch, pack_window

    return MicroBatch.from_windows([pack_window(np.append(ids.numpy(), 0), np.empty(0, np.int64))])


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_full_fine_tuning_starts_from_a_run_folder_and_adapters_from_adapters(
    command: Any, finetune_file: Path, base: Path, tmp_path: Path
) -> None:
    full, again, origin = (tmp_path / name for name in ("full", "again", "origin"))
    shutil.copytree(base, origin)
    whole = [f"run_dir={full}", f"finetune.start_from={origin}", "lora=null", "parallel.pipeline_parallel_size=2"]
    command("finetune", finetune_file, *whole, "train.stop_after=2")
    shutil.rmtree(origin)  # the weights and the tokenizer are in the run's own checkpoint now
    command("finetune", finetune_file, *whole)
    checkpoint = Checkpoint.open(full / "checkpoints/step_00000005")
    assert "model.embed_tokens.weight" in checkpoint.shapes
    first = command(
        "finetune", finetune_file, f"run_dir={again}", f"finetune.start_from={full}", "parallel.engine=fsdp2"
    )
    assert "adapters of rank 4" in first.stdout
    moved = full.rename(tmp_path / "moved")
    with pytest.raises(CheckpointError, match="give --base"):
        open_model(again)
    assert open_model(again, moved).step == 5
    moved.rename(full)
    third = tmp_path / "third"
    command("finetune", finetune_file, f"run_dir={third}", f"finetune.start_from={again}", "train.steps=2")
    chained = whole_model(Checkpoint.open(third / "checkpoints/step_00000002"))
    assert chained.base.lora.rank == 4  # type: ignore[attr-defined]
    (again / "checkpoints/step_00000005/COMMITTED").unlink()
    with pytest.raises(CheckpointError):
        whole_model(Checkpoint.open(third / "checkpoints/step_00000002"))


@pytest.fixture
def more_pieces(corpus: Path, tmp_path: Path) -> Path:
    """A tokenizer with 37 pieces more than the model's."""
    texts = ["phosphofructokinase haemoglobin glycolysis interleukin hepatocyte angiotensin " * 9]
    extend_tokenizer(corpus / "tokenizer/tokenizer.model", texts, tmp_path / "more.model", 37)
    return tmp_path / "more.model"


def test_adapters_on_a_model_without_rows_for_new_pieces_are_refused(finetune_file: Path, more_pieces: Path) -> None:
    with pytest.raises(CheckpointError, match=r"600 rows, expected model\.vocab_size = 637; .* without adapters"):
        start(str(finetune_file), [f"data.tokenizer={more_pieces}", "model.vocab_size=637"], DRY)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_whole_fine_tuning_grows_with_the_tokenizer_and_adapters_follow(
    command: Any, finetune_file: Path, base: Path, more_pieces: Path, tmp_path: Path
) -> None:
    larger = [f"data.tokenizer={more_pieces}", "model.vocab_size=637", "finetune.replay=[]", "finetune.replay_share=0"]
    found = []
    for tensor in (1, 2):
        run = tmp_path / f"tp{tensor}"
        command(
            "finetune", finetune_file, *larger, "lora=null", f"run_dir={run}", f"parallel.tensor_parallel_size={tensor}"
        )
        found.append(losses(run))
    assert found[0] == pytest.approx(found[1], rel=2e-5)
    checkpoint = Checkpoint.open(tmp_path / "tp2/checkpoints/step_00000005")
    assert checkpoint.shapes["lm_head.weight"] == (637, 64)
    command(
        "finetune",
        finetune_file,
        *larger,
        f"run_dir={tmp_path / 'adapters'}",
        f"finetune.start_from={tmp_path / 'tp2'}",
    )
    command("checkpoint", "export-hf", tmp_path / "adapters", tmp_path / "out", "--dtype", "fp32")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").lm_head.weight.shape[0] == 637


@pytest.mark.parametrize("name", ["medmcqa", "pubmedqa", "usmle"])
def test_shipped_recipes_fit_eight_devices(name: str) -> None:
    config = read_run(f"biomedgpt-lm-7b-{name}", [])
    check_run(config, 8)
    found = dict(line.split(": ", 1) for line in FINETUNE.description(config, 8))
    assert found["model"].startswith("6,738,415,616 parameters, bf16")
    assert found["length"].startswith("unknown until the questions are stores")
    assert "FLOP in all" not in found["compute"]
    assert found["starts from"] == "runs/biomedgpt-lm-7b, not there yet"


def test_a_dry_run_counts_the_steps_of_stores_and_names_the_file_that_is_missing(
    finetune_file: Path, questions: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_store([questions / "medmcqa/train.jsonl"], tmp_path / "s", open_tokenizer(corpus / "tokenizer/tokenizer.model"),
                BuildSettings(256))  # fmt: skip
    epochs = ["finetune.replay=[]", "finetune.replay_share=0", "train.steps=null", "train.epochs=2"]
    start(str(finetune_file), [f"finetune.train=[{{path: {tmp_path / 's'}}}]", *epochs], DRY)
    said = capsys.readouterr().out
    assert re.search(r"length: \d+ steps, .* 2\.\d\d epochs of \d+ samples", said)
    assert "FLOP in all" in said
    watched = ["eval.tasks=[{name: x, path: gone.json}]", f"eval.perplexity={{here: {corpus}/train, there: gone}}"]
    start(str(finetune_file), watched, DRY)
    absent = [line for line in capsys.readouterr().out.splitlines() if "not there yet" in line]
    assert absent == ["eval.tasks x: gone.json, not there yet", "eval.perplexity.there: gone, not there yet"]
    with pytest.raises(DataError, match=r"medmcqa/train\.json is not there"):
        start("biomedgpt-lm-7b-medmcqa", [], StartOptions(nproc=8, dry_run=True))


def test_the_bill_says_what_is_trained_and_what_it_takes() -> None:
    lines = FINETUNE.description(
        read_run("biomedgpt-lm-7b-medmcqa", ["lora.rank=8", "train.steps=100", "train.epochs=null"]), 8
    )
    found = dict(line.split(": ", 1) for line in lines)
    assert "trained: 19,988,480 (0.30%) in adapters of rank 8 on q, k, v, o, gate, up, down" in found["model"]
    assert "optimizer 28.6 MiB" in found["memory per rank"]  # 20 M parameters x 12 bytes over 8 replicas
    assert found["checkpoint"].startswith("228.8 MiB each")
    assert "(4 a frozen weight, 6 a trained one; causal" in found["compute"]
