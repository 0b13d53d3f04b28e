"""A run that starts from a Hugging Face folder proves first that all its ranks hold and compute that model."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.runs import RUN, losses

from megabiomed.config import load_config
from megabiomed.model.fresh import SeededInit
from megabiomed.model.hf_export import export_hf

Command = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = pytest.mark.timeout(240)
TP2 = ["parallel.tensor_parallel_size=2", "parallel.zero_stage=3"]
PP2 = ["parallel.tensor_parallel_size=1", "parallel.pipeline_parallel_size=2", "parallel.zero_stage=1"]


def folder_of(run_file: Path, folder: Path, tied: bool) -> Path:
    """A Hugging Face folder that fits a run file, with output head and embedding as one matrix or as two."""
    model = load_config(run_file).model.model_copy(update={"tie_word_embeddings": tied})
    return export_hf(SeededInit(model, 5), model, folder, "fp16")


@pytest.mark.parametrize(
    ("topology", "precision", "named", "tied"),
    [(TP2, "fp32", "tp2 pp1 dp1 zero3", False), (PP2, "bf16", "tp1 pp2 dp1 zero1", True)],
    ids=["tp2-zero3-fp32", "pp2-zero1-bf16-tied"],
)
def test_the_certificate_of_a_start_covers_every_rank(
    run_file: Path, command: Command, tmp_path: Path, topology: list[str], precision: str, named: str, tied: bool
) -> None:
    run, hf_folder = tmp_path / "run", folder_of(run_file, tmp_path / "hf", tied)
    begin = ["pretrain", run_file, f"run_dir={run}", f"model.init_from={hf_folder}", f"train.precision={precision}"]
    said = command(*begin, *topology, "train.steps=1").stdout
    assert "certificate: valid" in said
    found = json.loads((run / "import_certificate.json").read_text())
    assert (found["valid"], found["engine"]["topology"], found["engine"]["weights_max_diff"]) == (True, named, 0.0)
    assert found["engine"]["top1_agreement"] > (0.99 if precision == "fp32" else 0.8)
    assert found["engine"]["logits_max_diff"] < found["engine"]["tolerance"] * max(1.0, found["logits_scale"])
    assert found["logits_max_diff"] < 1e-5


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_tied_folder_is_trained_resumed_elsewhere_and_exported_as_one_matrix(
    run_file: Path, command: Command, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    folder = folder_of(run_file, tmp_path / "hf", True)
    begin = ["pretrain", run_file, f"model.init_from={folder}"]
    command(*begin, f"run_dir={tmp_path / 'whole'}", *PP2)
    command(*begin, f"run_dir={tmp_path / 'parts'}", *PP2, "train.stop_after=2")
    command(*begin, f"run_dir={tmp_path / 'parts'}", *TP2, "train.stop_after=2")
    command(*begin, f"run_dir={tmp_path / 'parts'}", "parallel.tensor_parallel_size=1", "parallel.engine=fsdp2")
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), abs=1e-5)
    command("checkpoint", "export-hf", tmp_path / "parts", tmp_path / "out", "--dtype", "fp32")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_with_new_pieces_starts_alike_at_tensor_1_and_2_and_is_exported(
    corpus: Path, command: Command, tmp_path: Path
) -> None:
    """From a folder with the old vocabulary: same losses, and a model with the new one that transformers loads."""
    from transformers import AutoTokenizer, LlamaForCausalLM

    old, records = corpus / "tokenizer" / "tokenizer.model", corpus.parent / "records.jsonl.gz"
    command("tokenizer", "extend", old, records, "--output", tmp_path / "new.model", "--pieces", 37)
    command("corpus", "build", records, "--output", tmp_path / "c", "--tokenizer", tmp_path / "new.model",
            "--validation-fraction", "0.2", "--workers", 1)  # fmt: skip
    (tmp_path / "run.yaml").write_text(RUN.replace("CORPUS", str(tmp_path / "c")))
    model = load_config(tmp_path / "run.yaml").model
    folder = export_hf(SeededInit(model, 5), model, tmp_path / "hf", "fp16", old)
    size = model.vocab_size + 37
    found = []
    for tensor in (1, 2):
        run = tmp_path / f"tp{tensor}"
        said = command("pretrain", tmp_path / "run.yaml", f"run_dir={run}", f"model.init_from={folder}", "train.steps=2",
                       f"model.vocab_size={size}", "train.precision=fp32", f"parallel.tensor_parallel_size={tensor}",
                       "parallel.data_parallel_size=1").stdout  # fmt: skip
        assert "certificate: valid" in said
        found.append(losses(run))
    assert set(found[0]) == {1, 2}
    assert found[0] == pytest.approx(found[1], abs=1e-5)
    command("checkpoint", "export-hf", tmp_path / "tp2", tmp_path / "out", "--dtype", "fp32")
    assert LlamaForCausalLM.from_pretrained(tmp_path / "out").lm_head.weight.shape[0] == size
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out")) == size
