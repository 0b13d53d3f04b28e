"""The chain of stages through the public commands: it trains, resumes on another topology, and answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.runs import events, losses

from megabiomed.align.chat import Chat
from megabiomed.align.records import QaRecord
from megabiomed.checkpoint.reader import Checkpoint


@pytest.mark.timeout(280)
def test_three_stages_stop_resume_on_another_topology_and_answer(
    command: Any, align_file: Path, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    command("align", align_file, f"run_dir={whole}")
    command("align", align_file, f"run_dir={parts}", "train.stop_after=2", "--stage", "one")
    command("align", align_file, f"run_dir={parts}", "parallel.tensor_parallel_size=2", "parallel.zero_stage=3",
            "align.protein.placement=zero3")  # fmt: skip
    for stage in ("one", "two", "three"):
        expected, found = losses(whole / stage), losses(parts / stage)
        assert found == pytest.approx(expected, rel=2e-5), stage
        assert events(whole / stage)[-1]["ids_hash"] == events(parts / stage)[-1]["ids_hash"]
    checkpoint = Checkpoint.open(whole / "one/checkpoints/step_00000004")
    assert all(name.startswith("adaptor.") for name in checkpoint.shapes)
    assert not any(
        name.startswith("encoder.") for name in Checkpoint.open(whole / "three/checkpoints/step_00000003").shapes
    )
    answers = [
        Chat(run).answer(QaRecord("t", "What does this molecule contain?", "", ["CCBr"]), _short())
        for run in (whole, parts)
    ]
    assert answers[0] == answers[1]
    done = command("align-evaluate", whole, "--split", _split(align_file), "--samples", 4, "--max-new-tokens", 8,
                   "--output", tmp_path / "scores.json")  # fmt: skip
    assert "held-out questions" in done.stdout
    assert json.loads((tmp_path / "scores.json").read_text())["scores"]


def _short() -> Any:
    from megabiomed.align.chat import Sampling

    return Sampling(max_new_tokens=8)


def _split(align_file: Path) -> Path:
    import yaml

    return Path(yaml.safe_load(align_file.read_text())["align"]["validation"])


def test_a_stage_without_its_predecessor_is_refused(command: Any, align_file: Path, tmp_path: Path) -> None:
    done = command("align", align_file, f"run_dir={tmp_path / 'r'}", "--stage", "two", code=2)
    assert "starts from stage one" in done.stderr
    done = command("align", align_file, "--stage", "four", code=2)
    assert "one, two, three" in done.stderr


def test_a_dry_run_names_the_memory_of_each_stage(command: Any) -> None:
    done = command("align", "biomedgpt-10b", "--dry-run", "--nproc", 8)
    assert "stage s2-encoders" in done.stdout
    assert "protein 5." in done.stdout  # 2.8 G parameters x 16 bytes over 8 ranks is 5.3 GiB
