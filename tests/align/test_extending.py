"""The encoder and the modality of docs/extending.md, outside the package, work as they are printed: by configuration alone."""

from __future__ import annotations

import csv
import json
import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from shutil import copyfile
from subprocess import CompletedProcess

import pytest
import yaml
from support.runs import losses

from megabiomed.checkpoint.reader import Checkpoint

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
GENES = ("TP53", "BRCA1", "EGFR", "KRAS", "MYC", "PTEN", "RB1", "ALK")
Command = Callable[..., CompletedProcess[str]]


@pytest.fixture
def workplace(questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on PYTHONPATH with the files that the page prints, questions on cells, and a tokenizer."""
    for text in re.findall(r"^```(?:python|yaml)\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        (tmp_path / text.split("\n", 1)[0].removeprefix("# ")).write_text(text)
    rng = random.Random(0)
    with (tmp_path / "cells.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["expression", "question", "answer"])
        for _ in range(60):
            values = [rng.random() for _ in range(rng.choice([4, 8]))]
            values[rng.randrange(len(values))] += 3
            highest = GENES[values.index(max(values))]
            rows.writerow([" ".join(f"{v:.3f}" for v in values), "Which gene is high?", f"The gene is {highest}."])
        rows.writerow(["1 2 x 4", "Which gene is high?", "None."])
        rows.writerow([" ".join("1" * 36), "Which gene is high?", "None."])
    copyfile(questions.parent / "tokenizer.model", tmp_path / "tokenizer.model")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def build(command: Command) -> None:
    command("dataset", "build", "cells.csv", "--output", "qa", "--tokenizer", "tokenizer.model", "--template", "plain",
            "--modality", "my_cells:CELLS", "--layout", "my_cells:TABLE", "--set", "cell.max_genes=32")  # fmt: skip


@pytest.mark.timeout(900)
def test_a_modality_from_outside_is_built_trained_resumed_and_asked(workplace: Path, command: Command) -> None:
    build(command)
    kept = [
        json.loads((workplace / f"qa/{name}/manifest.json").read_text()) for name in ("train", "validation", "test")
    ]
    assert sum(manifest["records"] for manifest in kept) == 60
    reasons = [reason for manifest in kept for reason in manifest["left_out"]]
    assert sorted(reasons) == ["cell invalid", "cell wrong size"]
    shown = command("dataset", "inspect", "qa/train").stdout
    assert "'kind': 'my_cells:CELLS'" in shown

    alone, together = "run_dir=alone", "run_dir=together"
    command("align", "cells.yaml", alone, "--nproc", 1)
    sharded = "align.modalities.cell.encoder.placement=zero3"
    command("align", "cells.yaml", together, "--nproc", 2, sharded, "train.stop_after=2", "--stage", "adaptors")
    done = command("align", "cells.yaml", together, "--nproc", 2, sharded)
    assert "gap:" in done.stdout  # validation with the cells of other questions
    for stage in ("adaptors", "encoders"):
        assert losses(workplace / "together" / stage) == pytest.approx(losses(workplace / "alone" / stage), rel=1e-5)
    first, second = (
        Checkpoint.open(workplace / f"together/{stage}/checkpoints/step_00000004") for stage in ("adaptors", "encoders")
    )
    assert set(first.shapes) == {"adaptor.cell.layers.weight", "adaptor.cell.layers.bias"}
    assert "encoder.cell.layers.2.weight" in second.shapes

    asked = ("--question", "Which gene is high?", "--item", "cell=0.1 2 0 0.5", "--max-new-tokens", 4)
    said = command("chat", "together", *asked).stdout
    command("align-export", "together", "exported", "--dtype", "fp32")
    assert command("chat", "exported", *asked).stdout == said
    assert "wrong size" in command("chat", "exported", *asked[:2], "--item", "cell=1 2", code=2).stderr


def test_a_modality_from_outside_is_submitted(workplace: Path, command: Command) -> None:
    build(command)
    shown = command("submit", "cells.yaml", "--cluster", "cpu-test", "--dry-run").stdout
    assert shown.count("-m megabiomed.runs.worker ") == 2  # a job per stage
    refused = command("submit", "cells.yaml", "align.stages.1.cel=full", "--cluster", "cpu-test", "--dry-run", code=2)
    assert "did you mean 'align.stages.1.cell'" in refused.stderr


def test_the_memory_of_a_modality_from_outside_is_counted(workplace: Path, command: Command) -> None:
    build(command)
    shown = command("align", "cells.yaml", "--dry-run", "--nproc", 2, "align.stages.1.cell=lora").stdout
    assert re.search(r"stage encoders: .* cell 0\.00 GiB", shown)


def test_an_encoder_from_outside_runs_on_every_rank(workplace: Path, align_file: Path, command: Command) -> None:
    stages = "align.stages=[{name: one, steps: 3, molecule: full, encoder_lr: 1.0e-2}]"
    kind = "align.molecule.kind=degree_gin:ENCODER"
    command("align", align_file, kind, stages, "run_dir=alone", "--nproc", 1)
    command("align", align_file, kind, stages, "run_dir=together", "--nproc", 2, "parallel.tensor_parallel_size=2")
    assert losses(workplace / "together/one") == pytest.approx(losses(workplace / "alone/one"), rel=1e-5)
    held = Checkpoint.open(workplace / "together/one/checkpoints/step_00000003")
    assert held.shapes["encoder.molecule.degree.weight"] == (9, 16)
    assert yaml.safe_load(held.config_text)["align"]["molecule"]["kind"] == "degree_gin:ENCODER"
    refused = command("align", align_file, kind, stages, "align.molecule.init_from=x.pth", "--dry-run", code=2)
    assert "degree_gin:ENCODER reads no weights" in refused.stderr
