"""The chain of stages through the public commands: it trains, resumes on another topology, and answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.runs import events, losses

from megabiomed.align.aligned import ADAPTORS, DESCRIPTION, ENCODERS
from megabiomed.align.chat import Chat, Sampling, _answered, answer_file
from megabiomed.align.export import export_aligned
from megabiomed.align.records import QaRecord
from megabiomed.checkpoint.files import sha256_file
from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.errors import CheckpointError, DataError


@pytest.mark.timeout(900)
def test_four_stages_stop_resume_on_another_topology_and_answer(command: Any, align_file: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    command("align", align_file, f"run_dir={whole}", f"align.protein.cache={tmp_path / 'cache'}")
    command("align", align_file, f"run_dir={parts}", "train.stop_after=2", "--stage", "one",
            "align.dedicated_encoder_ranks=1")  # fmt: skip
    command("align", align_file, f"run_dir={parts}", "parallel.tensor_parallel_size=2", "parallel.zero_stage=3",
            "align.protein.placement=zero3")  # fmt: skip
    for stage in ("one", "two", "three", "four"):
        expected, found = losses(whole / stage), losses(parts / stage)
        assert found == pytest.approx(expected, rel=2e-5), stage
        assert events(whole / stage)[-1]["ids_hash"] == events(parts / stage)[-1]["ids_hash"]
    checkpoint = Checkpoint.open(whole / "one/checkpoints/step_00000004")
    assert all(name.startswith("adaptor.") for name in checkpoint.shapes)
    second = Checkpoint.open(whole / "two/checkpoints/step_00000003").shapes
    assert all(".lora_" in name for name in second if name.startswith("encoder.protein."))
    assert any(".lora_A." in name for name in second)
    assert (
        len(list((tmp_path / "cache").iterdir())) == 2
    )  # the weights of stage one, and with LoRA those of stage three
    third = Checkpoint.open(whole / "three/checkpoints/step_00000003").shapes
    assert all(name.startswith("adaptor.") or ".lora_" in name for name in third)
    assert not any(name.startswith("encoder.") for name in third)
    fourth = Checkpoint.open(whole / "four/checkpoints/step_00000002").shapes  # begins with the adapters merged
    assert not any(".lora_" in name for name in fourth)
    answers = [
        Chat(run).answer(QaRecord("t", "What does this molecule contain?", "", ["CCBr"]), _short())
        for run in (whole, parts)
    ]
    assert answers[0] == answers[1]
    _exported_answers_alike(command, whole, tmp_path)
    done = command("evaluate", whole, "--split", _split(align_file), "--limit", 4, "--max-new-tokens", 8,
                   "--output", tmp_path / "scores")  # fmt: skip
    assert "held-out questions" in done.stdout
    assert json.loads((tmp_path / "scores/scores.json").read_text())["scores"]


def _exported_answers_alike(command: Any, run: Path, tmp_path: Path) -> None:
    """An export answers as the run does, without the run; what cannot be asked is a line with its reason."""
    export_aligned(run, tmp_path / "export", "fp32")
    with pytest.raises(CheckpointError, match="already exists"):
        export_aligned(run, tmp_path / "export", "fp32")
    asked = [
        {"smiles": ["CCBr"], "question": "What does this molecule contain?", "answer": "bromine"},
        {"smiles": ["C1CC"], "question": "q", "answer": "a"},
        {"sequence": ["MKT1"], "question": "q", "answer": "a"},
        {"smiles": ["C", "[Na+]"], "question": "<moleculeHere> or <moleculeHere>?", "answer": "both"},
        {"smiles": ["C"], "question": "<proteinHere>?", "answer": "a"},
        {"sequence": ["mkjuoBZX" + "A" * 60], "question": "q", "answer": "a"},
    ]
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    lines = []
    for number, source in enumerate((run, tmp_path / "export")):
        output = tmp_path / f"answers{number}.jsonl"
        output.write_text('{"id": "asked.json:1", "error": "an earlier run"}\n{"id": "asked.j')
        answer_file(Chat(source), tmp_path / "asked.json", output, _short())
        lines.append({held["id"]: held for held in map(json.loads, output.read_text().splitlines())})
    assert lines[0] == lines[1]
    errors = {number: line["error"] for number in range(6) if "error" in (line := lines[0][f"asked.json:{number}"])}
    assert sorted(errors) == [1, 2, 4]
    assert errors[1] == "an earlier run"
    assert "no residue" in errors[2]
    assert "placeholders" in errors[4]
    done = command("chat", tmp_path / "export", "--molecule", "C1CC", "--question", "q", code=2)
    assert "molecule refused (invalid)" in done.stderr


def test_a_damaged_file_of_an_export_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    for name in (ENCODERS, ADAPTORS):
        (tmp_path / name).write_bytes(b"whole")
    held = {"format": 1, "sha256": {name: sha256_file(tmp_path / name) for name in (ENCODERS, ADAPTORS)}}
    (tmp_path / DESCRIPTION).write_text(json.dumps(held))
    (tmp_path / ADAPTORS).write_bytes(b"whale")
    with pytest.raises(CheckpointError, match=r"adaptors\.safetensors is damaged"):
        Chat(tmp_path)
    (tmp_path / ENCODERS).unlink()
    with pytest.raises(CheckpointError, match="no such file"):
        Chat(tmp_path)


WHOLE = '{"id": "a:0", "question": "q", "answer": "\\u2028"}\n{"id": "a:1", "question": "q", "error": "e"}\n'


@pytest.mark.parametrize("half", ["", "{", '{"id": "a:2", "ques'])
def test_half_an_answer_is_cut_off_and_the_whole_ones_are_not_written_again(
    half: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "answers.jsonl"
    output.write_text(WHOLE + half)
    monkeypatch.setattr(Path, "write_text", None)  # to write the file anew would lose it in a kill
    assert _answered(output) == {"a:0", "a:1"}
    assert output.read_text() == WHOLE


@pytest.mark.parametrize("text", ["Notes\n", "Notes", '{"text": 1}', '{"id": "a"}\n', "[1]\n", WHOLE + "x", "\x00\n"])
def test_an_output_of_another_kind_is_refused_and_left_alone(text: str, tmp_path: Path) -> None:
    output = tmp_path / "notes.txt"
    output.write_text(text)
    with pytest.raises(DataError, match="no file of answers"):
        _answered(output)
    assert output.read_text() == text


def _short() -> Sampling:
    return Sampling(max_new_tokens=8)


def _split(align_file: Path) -> Path:
    import yaml

    return Path(yaml.safe_load(align_file.read_text())["align"]["validation"])


def test_a_stage_without_its_predecessor_is_refused(command: Any, align_file: Path, tmp_path: Path) -> None:
    done = command("align", align_file, f"run_dir={tmp_path / 'r'}", "--stage", "two", code=2)
    assert "starts from stage one" in done.stderr
    done = command("align", align_file, "--stage", "five", code=2)
    assert "one, two, three, four" in done.stderr


def test_a_dry_run_names_the_memory_of_each_stage(command: Any) -> None:
    done = command("align", "biomedgpt-10b", "--dry-run", "--nproc", 8)
    assert "stage s2-encoders" in done.stdout
    assert "protein 5." in done.stdout  # 2.8 G parameters x 16 bytes over 8 ranks is 5.3 GiB
