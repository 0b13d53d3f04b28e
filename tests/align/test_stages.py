"""The chain of stages through the public commands: it trains, resumes on another topology, and answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.runs import events, losses

from megabiomed.align.aligned import ADAPTORS, DESCRIPTION, ENCODERS
from megabiomed.align.chat import Chat, Sampling, _answered, answer_file
from megabiomed.align.export import export_aligned
from megabiomed.checkpoint.logical import Box
from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.config import load_config
from megabiomed.config.align import AlignRunConfig
from megabiomed.ground.errors import CheckpointError, DataError
from megabiomed.ground.files import sha256_file
from megabiomed.model.fresh import SeededInit
from megabiomed.model.hf_export import export_hf
from megabiomed.runs.start import StartOptions, start
from megabiomed.samples.multimodal.records import MultimodalQuestion


@pytest.mark.timeout(900)
def test_four_stages_stop_resume_on_another_topology_and_answer(
    command: Any, align_file: Path, watched: list[str], tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    command("align", align_file, f"run_dir={whole}", f"align.protein.cache={tmp_path / 'cache'}")
    command("align", align_file, f"run_dir={parts}", "train.stop_after=2", "--stage", "one",
            "align.dedicated_encoder_ranks=1")  # fmt: skip
    command("align", align_file, f"run_dir={parts}", "parallel.tensor_parallel_size=2", "parallel.zero_stage=3",
            "align.protein.placement=zero3", *watched)  # fmt: skip
    for stage in ("one", "two", "three", "four"):
        expected, found = losses(whole / stage), losses(parts / stage)
        assert found == pytest.approx(expected, rel=2e-5), stage
        assert events(whole / stage)[-1]["ids_hash"] == events(parts / stage)[-1]["ids_hash"]
        _texts_were_evaluated(parts / stage, max(expected))
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
        Chat(run).answer(
            MultimodalQuestion("t", "What does this molecule contain?", "", {"molecule": ["CCBr"]}), _short()
        )
        for run in (whole, parts)
    ]
    assert answers[0] == answers[1]
    _exported_answers_alike(command, whole, tmp_path)
    done = command("evaluate", whole, "--split", _split(align_file), "--limit", 4, "--max-new-tokens", 8,
                   "--output", tmp_path / "scores")  # fmt: skip
    assert "held-out questions" in done.stdout
    assert json.loads((tmp_path / "scores/scores.json").read_text())["scores"]


def _texts_were_evaluated(stage: Path, last: int) -> None:
    lines = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
    found = {line["step"]: line for line in lines if "evaluation/exam_accuracy" in line}
    assert set(found) == set(
        range(2 if stage.name == "one" else 0, last + 1)
    )  # stage one stopped at step 2, which is made up
    assert {"evaluation/papers_perplexity", "evaluation/open_answer_loss"} <= set(found[last])


def _evaluated_as_between_the_steps(command: Any, model: Path, stage: Path, watched: list[str], output: Path) -> None:
    """`evaluate` finds the language model of a stage, in one process, as it was when the stage ended."""
    import yaml

    exam = yaml.safe_load(watched[0].partition("=")[2])[0]["path"]
    papers = yaml.safe_load(watched[1].partition("=")[2])["papers"]
    command("evaluate", model, "--task", f"exam={exam}", "--limit", 3, "--perplexity", f"papers={papers}", "--samples", 3,
            "--seq-length", 96, "--output", output)  # fmt: skip
    found = json.loads((output / "results.json").read_text())
    told = [line for line in map(json.loads, (stage / "metrics.jsonl").read_text().splitlines())
            if "evaluation/papers_loss" in line][-1]  # fmt: skip
    assert found["perplexity"]["papers"]["loss"] == pytest.approx(told["evaluation/papers_loss"], abs=1e-5)
    rows = [json.loads(line) for line in (output / "predictions_exam.jsonl").read_text().splitlines()]
    loss = -sum(row["logprobs"][row["label"]] for row in rows) / len(rows)
    assert loss == pytest.approx(2 * told["evaluation/exam_answer_loss"], abs=2e-5)  # " A" is two tokens here


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_texts_between_the_steps_change_no_bit_of_an_alignment(
    command: Any, align_file: Path, papers: Path, watched: list[str], tmp_path: Path
) -> None:
    plain, seen = tmp_path / "plain", tmp_path / "seen"
    two = ["parallel.tensor_parallel_size=2", "parallel.zero_stage=3", "align.protein.placement=zero3"]
    command("align", align_file, f"run_dir={plain}", *two)
    command("align", align_file, f"run_dir={seen}", *two, *watched)
    for stage in ("one", "two", "three", "four"):
        assert losses(seen / stage) == losses(plain / stage), stage
    before = Checkpoint.open(plain / "four/checkpoints/step_00000002")
    after = Checkpoint.open(seen / "four/checkpoints/step_00000002")
    for name, shape in before.shapes.items():
        box = Box.whole(name, tuple(shape))
        assert torch.equal(before.read(box), after.read(box)), name
    for stage, path in (
        ("three", seen / "three"),
        ("four", seen),
    ):  # adapters on what stages before them trained; all of it
        _evaluated_as_between_the_steps(command, path, seen / stage, watched, tmp_path / stage)
    alone = command("validate", seen / "four", "--store", papers, "--samples", "3").stdout
    assert "validation_loss: " in alone


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
    with pytest.raises(DataError, match="not a file of answers"):
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


def test_a_language_model_without_rows_for_the_pieces_of_the_dataset_is_refused(
    align_file: Path, tmp_path: Path
) -> None:
    smaller = load_config(align_file, ["model.vocab_size=396"], AlignRunConfig).model
    folder = export_hf(SeededInit(smaller, 5), smaller, tmp_path / "hf", "fp16")
    for key in ("align.language_model", "model.init_from"):
        with pytest.raises(CheckpointError, match=r"396 rows, expected model\.vocab_size = 400"):
            start(str(align_file), [f"{key}={folder}"], StartOptions(nproc=1, dry_run=True))


def test_a_dry_run_names_the_memory_of_each_stage(command: Any) -> None:
    done = command("align", "biomedgpt-10b", "--dry-run", "--nproc", 8)
    assert "stage s2-encoders" in done.stdout
    assert "protein 5." in done.stdout  # 2.8 G parameters x 16 bytes over 8 ranks is 5.3 GiB
