"""A run that starts from a Hugging Face folder proves first that all its ranks hold and compute that model."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from megabiomed.checkpoint.sources import SeededInit
from megabiomed.config import load_config
from megabiomed.model.llama.convert import export_hf

Command = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = pytest.mark.timeout(240)
TP2 = ["parallel.tensor_parallel_size=2", "parallel.zero_stage=3"]
PP2 = ["parallel.tensor_parallel_size=1", "parallel.pipeline_parallel_size=2", "parallel.zero_stage=1"]


@pytest.fixture
def hf_folder(run_file: Path, tmp_path: Path) -> Path:
    model = load_config(run_file).model
    return export_hf(SeededInit(model, 5), model, tmp_path / "hf", "fp16")


@pytest.mark.parametrize(
    ("topology", "precision", "named"),
    [(TP2, "fp32", "tp2 pp1 dp1 zero3"), (PP2, "bf16", "tp1 pp2 dp1 zero1")],
    ids=["tp2-zero3-fp32", "pp2-zero1-bf16"],
)
def test_the_certificate_of_a_start_covers_every_rank(
    run_file: Path, hf_folder: Path, command: Command, tmp_path: Path, topology: list[str], precision: str, named: str
) -> None:
    run = tmp_path / "run"
    begin = ["pretrain", run_file, f"run_dir={run}", f"model.init_from={hf_folder}", f"train.precision={precision}"]
    said = command(*begin, *topology, "train.steps=1").stdout
    assert "certificate: valid" in said
    found = json.loads((run / "import_certificate.json").read_text())
    assert (found["valid"], found["engine"]["topology"], found["engine"]["weights_max_diff"]) == (True, named, 0.0)
    assert found["engine"]["top1_agreement"] > (0.99 if precision == "fp32" else 0.8)
    assert found["engine"]["logits_max_diff"] < found["engine"]["tolerance"] * max(1.0, found["logits_scale"])
    assert found["logits_max_diff"] < 1e-5
