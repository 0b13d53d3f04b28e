"""Evaluations in one process: resumed after a kill, with examples, contaminated items and generated answers."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from megabiomed.cli import app
from megabiomed.config.evaluation import EvalConfig
from megabiomed.evaluate.compare import compare_command, compare_perplexities, compare_rows
from megabiomed.evaluate.contamination import read_reports
from megabiomed.evaluate.in_training import TrainingEvaluation
from megabiomed.evaluate.results import ResultFolder
from megabiomed.evaluate.runner import Evaluation
from megabiomed.evaluate.settings import EvaluateSettings, parse_tasks
from megabiomed.evaluate.single import generate_text
from megabiomed.evaluate.start import describe
from megabiomed.evaluate.start import evaluate as start
from megabiomed.evaluate.worker import STOPPED
from megabiomed.ground.errors import CheckpointError, ConfigError, DataError, NonFiniteError, TopologyError, WorkerError
from megabiomed.processes.signals import StopFlag

Evaluate = Callable[..., Evaluation]


@pytest.fixture(scope="module")
def model(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from megabiomed.config import ModelConfig
    from megabiomed.model.fresh import SeededInit
    from megabiomed.model.hf_export import export_hf

    config = ModelConfig(vocab_size=600, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, max_position_embeddings=512)  # fmt: skip
    tokenizer = corpus / "train" / "tokenizer.model"
    return export_hf(SeededInit(config, 3), config, tmp_path_factory.mktemp("model") / "hf", "fp32", tokenizer)


def without_numbers(model: Path, folder: Path) -> Path:
    """A copy whose last norm is NaN."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, folder / "nan")
    file = next((folder / "nan").glob("*.safetensors"))
    weights = load_file(file)
    weights["model.norm.weight"].fill_(torch.nan)
    save_file(weights, file, {"format": "pt"})
    return folder / "nan"


@pytest.fixture
def evaluate(alone: None, model: Path, questions: Path, tmp_path: Path) -> Evaluate:
    def run(*tasks: str, train: list[str] | None = None, **more: Any) -> Evaluation:
        parsed = parse_tasks([task.replace("=", f"={questions}/") for task in tasks], [],
                             [text.replace("=", f"={questions}/") for text in train or []])  # fmt: skip
        values = {"model": model, "tasks": parsed, "output": tmp_path / "out", "window": 256, **more}
        evaluation = Evaluation(EvaluateSettings.model_validate(values), StopFlag())
        assert evaluation.run() == "finished"
        return evaluation

    return run


def test_a_killed_evaluation_goes_on_and_ends_with_the_same_predictions(
    evaluate: Evaluate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate("exam=medmcqa/test.jsonl")
    file = tmp_path / "out" / "predictions_exam.jsonl"
    whole, results = file.read_bytes(), (tmp_path / "out" / "results.json").read_text()
    lines = whole.splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:9]) + lines[9][:40])  # cut off in the middle of a line, as a kill does
    (tmp_path / "out" / "results.json").unlink()
    evaluate("exam=medmcqa/test.jsonl")
    assert "exam: 9 of 16 items are predicted already" in capsys.readouterr().out
    again = [json.loads(line) for line in file.read_bytes().splitlines()]
    for before, after in zip(map(json.loads, lines), again, strict=True):
        assert after["logprobs"] == pytest.approx(before["logprobs"], abs=1e-5)
        assert (after["id"], after["prediction"]) == (before["id"], before["prediction"])
    assert (tmp_path / "out" / "results.json").read_text() == results
    with pytest.raises(DataError, match="another evaluation"):
        evaluate("exam=medmcqa/test.jsonl", limit=3)


def test_results_of_a_file_that_changed_under_its_name_are_not_gone_on_with(
    evaluate: Evaluate, questions: Path, tmp_path: Path
) -> None:
    lines = (questions / "medmcqa" / "test.jsonl").read_text().splitlines(keepends=True)[:4]
    (questions / "changing.jsonl").write_text("".join(lines))
    evaluate("exam=changing.jsonl")
    (questions / "changing.jsonl").write_text("".join(lines[::-1]))
    with pytest.raises(DataError, match="other questions"):
        evaluate("exam=changing.jsonl")


@pytest.mark.parametrize("mode", ["choice", "generate"])
def test_a_model_that_gives_nan_is_an_error_and_no_answer(
    evaluate: Evaluate, model: Path, tmp_path: Path, mode: str
) -> None:
    with pytest.raises(NonFiniteError, match="not numbers"):
        evaluate(
            "exam=medmcqa/test.jsonl", model=without_numbers(model, tmp_path), mode=mode, max_new_tokens=2, limit=2
        )
    assert not list((tmp_path / "out").glob("predictions*"))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_model_that_gives_nan_continues_no_text(model: Path, tmp_path: Path, temperature: float) -> None:
    with pytest.raises(NonFiniteError, match="not numbers"):
        generate_text(without_numbers(model, tmp_path), "The heart", 2, temperature, 0)


def test_a_perplexity_that_is_no_number_is_said_everywhere_and_compared_with_nothing(
    evaluate: Evaluate, model: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    domain = {"perplexity": {"papers": corpus / "validation"}, "seq_length": 64, "samples": 2}
    for name, weights in {"nan": without_numbers(model, tmp_path), "good": model}.items():
        evaluate(**domain, model=weights, output=tmp_path / name)
    said, warning = capsys.readouterr().out, "warning: the perplexity of papers is not finite"
    assert "papers loss: not finite perplexity: not finite tokens: 128" in said
    assert said.count(warning) == 1
    held = json.loads((tmp_path / "nan/results.json").read_text(), parse_constant=pytest.fail)["perplexity"]["papers"]
    assert (held["loss"], held["perplexity"], held["tokens"]) == ("not finite", "not finite", 128)
    assert warning in (tmp_path / "nan/results.html").read_text()
    compare_command(tmp_path / "nan", tmp_path / "good", tmp_path / "compared.json")
    found = json.loads((tmp_path / "compared.json").read_text())["perplexity"]["papers"]
    assert (found["a"], found["not_compared"]) == ("not finite", "not finite")
    assert "difference" not in found
    assert re.search(r"papers .* not finite .* not finite", capsys.readouterr().out)


def test_between_the_steps_a_model_without_numbers_ends_nothing_and_gives_no_figure(
    evaluate: Evaluate, model: Path, questions: Path, corpus: Path, tmp_path: Path
) -> None:
    engine = evaluate(model=without_numbers(model, tmp_path)).engine
    tasks = [
        {"name": "exam", "path": questions / "medmcqa/test.jsonl"},
        {"name": "open", "path": questions / "free/test.jsonl"},
    ]
    watched = EvalConfig.model_validate({"tasks": tasks, "perplexity": {"papers": corpus / "validation"}, "limit": 2})
    config = engine.config.model_copy(update={"eval": watched})
    found = TrainingEvaluation(config, engine.mesh, model / "tokenizer.model").run(engine)
    names = {"exam_accuracy", "exam_answer_loss", "open_answer_loss", "papers_loss", "papers_perplexity"}
    assert found.keys() == names
    assert all(map(math.isnan, found.values()))


def test_damaged_and_foreign_results_are_named(tmp_path: Path) -> None:
    folder, row = ResultFolder(tmp_path), {"id": "a", "question_sha256": "q"}
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(DataError, match="not what `megabiomed evaluate` writes"):
        folder.results()
    folder.predictions("exam").write_text(json.dumps(row) + "\ngarbage\n" + json.dumps(row) + "\n")
    with pytest.raises(DataError, match=r"predictions_exam\.jsonl is damaged"):
        folder.read("exam")
    with pytest.raises(DataError, match="no id of 1 and of 0 in both"):
        compare_rows([row], [])


def test_perplexities_are_compared_only_on_the_same_text() -> None:
    text = {"store_sha256": "s", "seq_length": 64, "tokens": 128, "perplexity": 1.0}
    (found,) = compare_perplexities({"d": {**text, "loss": 2.0}}, {"d": {**text, "loss": 2.5}, "e": {}}).values()
    assert found == {"a": 2.0, "b": 2.5, "difference": 0.5}
    for changed in ({"tokens": 127}, {"store_sha256": "t"}, {"seq_length": 32}):
        other = {"d": {**text, "loss": 2.5, **changed}}
        assert "other text" in compare_perplexities({"d": {**text, "loss": 2.0}}, other)["d"]["not_compared"]


def test_examples_come_from_the_train_split_and_never_from_the_question_itself(
    evaluate: Evaluate, questions: Path
) -> None:
    evaluation = evaluate("abstracts=pubmedqa/ori_pqal.json", "exam=medmcqa/test.jsonl", shots=2, limit=5,
                          train=["exam=medmcqa/train.jsonl"])  # fmt: skip
    held = json.loads((questions / "pubmedqa" / "test_ground_truth.json").read_text())
    entries = json.loads((questions / "pubmedqa" / "ori_pqal.json").read_text())
    for item in evaluation.tasks[0].items:
        assert item.encoded.text.count("Question:") == 3
        asked = [ident for ident, entry in entries.items() if entry["QUESTION"] in item.encoded.text]
        assert [ident for ident in asked if ident in held] == [item.record.ident]
    assert all(item.encoded.text.count("Choices:") == 3 for item in evaluation.tasks[1].items)
    with pytest.raises(DataError, match="from the questions themselves"):
        evaluate("exam=medmcqa/test.jsonl", shots=2)


def test_questions_in_the_training_data_are_marked_dropped_or_refused(
    evaluate: Evaluate, questions: Path, tmp_path: Path
) -> None:
    from megabiomed.corpus.decontaminate import contamination_report, read_items
    from megabiomed.ground.files import sha256_file

    file = questions / "pubmedqa" / "ori_pqal.json"
    items = read_items(file)
    held = list(json.loads((questions / "pubmedqa" / "test_ground_truth.json").read_text()))[:3]
    numbers = [n for n, item in enumerate(items) if item.item_id in held]
    papers = [{"paper_id": "p", "removed": n == numbers[0], "items": [[n, 1.0]]} for n in numbers]
    report = contamination_report(items, papers, {file.name: sha256_file(file)})
    (tmp_path / "decontamination.json").write_text(json.dumps(report))
    asked = {"stores": [tmp_path], "limit": 10}
    task = evaluate("abstracts=pubmedqa/ori_pqal.json", **asked).folder.results()["tasks"]["abstracts"]
    # The generated questions are shorter than what decontamination looks for.
    assert task["contamination_checked"].startswith("no: none of the 40 questions is long enough")
    assert (task["accuracy_contaminated"]["items"], task["accuracy_clean"]["items"]) == (2, 8)
    dropped = evaluate("abstracts=pubmedqa/ori_pqal.json", **asked, contaminated="drop", output=tmp_path / "d")
    assert (len(dropped.tasks[0].items), dropped.tasks[0].dropped) == (8, 2)
    with pytest.raises(DataError, match="holds questions of"):
        evaluate("abstracts=pubmedqa/ori_pqal.json", **asked, contaminated="refuse", output=tmp_path / "r")


def test_questions_too_short_to_be_looked_for_are_not_said_to_be_checked(tmp_path: Path) -> None:
    stores = []
    for name, (searched, items) in {"a": (4, 4), "b": (3, 4)}.items():
        stores.append(tmp_path / name)
        stores[-1].mkdir()
        sets = [{"file": "q.json", "sha256": "s", "items": items, "searched": searched}]
        (stores[-1] / "decontamination.json").write_text(json.dumps({"sets": sets, "items": []}))
    other = {"sets": [{"file": "o.json", "sha256": "o", "items": 1, "searched": 1}], "items": []}
    (tmp_path / "decontamination.json").write_text(json.dumps(other))
    assert read_reports([], stores[:1]).describe("s") == "yes"
    assert read_reports([], stores).describe("s").startswith("in part: 3 of 4 questions are long enough")
    assert (
        read_reports([], [stores[0], tmp_path]).describe("s") == "in part: 1 of 2 stores were searched for other files"
    )
    assert read_reports([tmp_path / "gone"], stores[:1]).describe("s").startswith("in part: no report in")
    assert read_reports([], stores).describe("o").startswith("no: ")


def test_examples_with_the_same_words_but_other_options_count_and_too_few_are_an_error(
    evaluate: Evaluate, questions: Path
) -> None:
    rows = [json.loads(line) for line in (questions / "medmcqa" / "test.jsonl").read_text().splitlines()[:5]]
    rows = [{**row, "question": "Which is true?", "opa": f"bone {number}"} for number, row in enumerate(rows)]
    for name, held in (
        ("asked", rows[:1]),
        ("train", rows[1:]),
        ("same", [{**rows[0], "id": str(n)} for n in range(5)]),
    ):
        (questions / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held))
    evaluation = evaluate("exam=asked.jsonl", shots=2, train=["exam=train.jsonl"])
    assert evaluation.tasks[0].items[0].encoded.text.count("Which is true?") == 3
    with pytest.raises(DataError, match="too few other examples"):
        evaluate("exam=asked.jsonl", shots=2, train=["exam=same.jsonl"])


@pytest.mark.timeout(240)
def test_a_stop_of_several_processes_is_a_stop_and_a_death_keeps_its_log(
    model: Path, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rows = [json.loads(line) for line in (questions / "medmcqa" / "test.jsonl").read_text().splitlines()]
    many = [{**row, "id": f"{row['id']}-{n}", "question": f"{n} {row['question']}"} for n in range(60) for row in rows]
    (questions / "many.jsonl").write_text("".join(json.dumps(row) + "\n" for row in many))
    values = {"model": model, "tasks": parse_tasks([f"exam={questions / 'many.jsonl'}"], [], []), "window": 64}
    settings = EvaluateSettings.model_validate({**values, "output": tmp_path / "out"})

    def stop_when_it_predicts() -> None:
        while not (tmp_path / "out" / "predictions_exam.jsonl").is_file():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_when_it_predicts, daemon=True).start()
    with pytest.raises(SystemExit) as left:
        start(settings, 2, dry_run=False)
    assert left.value.code == STOPPED
    assert 0 < len((tmp_path / "out" / "predictions_exam.jsonl").read_bytes().splitlines()) < len(many)
    assert not list(tmp_path.glob("megabiomed-evaluate-*"))
    with pytest.raises(WorkerError, match="not numbers") as died:
        start(
            settings.model_copy(update={"model": without_numbers(model, tmp_path), "output": tmp_path / "d"}), 2, False
        )
    assert Path(str(died.value.do).removeprefix("its log is ")).is_file()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--split", "qa/test", "--dry-run", "--tp", "2"], "got --dry-run, --tp"),
        (["--split", "qa/test", "--task", "a=b"], "got --task"),
        (["--retrieval", "qa/train", "--task", "a=b"], "give --split"),
        (["--task", "a=b", "--train", "a=c"], "give --shots"),
    ],
)
def test_options_that_would_be_ignored_are_refused(given: list[str], message: str) -> None:
    found = CliRunner().invoke(app, ["evaluate", "runs/x", *given])
    assert isinstance(found.exception, ConfigError)
    assert message in str(found.exception)


def test_a_task_name_that_makes_no_file_name_is_refused(questions: Path) -> None:
    with pytest.raises(ConfigError, match="--task bad name"):
        parse_tasks([f"bad name={questions / 'medmcqa' / 'test.jsonl'}"], [], [])


def test_generated_answers_equal_greedy_decoding_without_a_cache(evaluate: Evaluate, model: Path) -> None:
    from transformers import LlamaForCausalLM

    evaluation = evaluate("exam=medmcqa/test.jsonl", "open=free/test.jsonl", mode="generate", max_new_tokens=6, limit=5)
    results = evaluation.folder.results()["tasks"]
    assert set(results["open"]["text"]) >= {"bleu4", "rougeL", "meteor", "exact"}
    assert "no_option_named" in results["exam"]
    assert any(note.startswith("the first 5 of ") for note in results["exam"]["notes"])
    plain, tokenizer = LlamaForCausalLM.from_pretrained(model).float().eval(), evaluation.model.tokenizer
    for row, item in zip(evaluation.folder.read("open"), evaluation.tasks[1].items, strict=True):
        ids = list(item.encoded.prompt)
        for _ in range(6):
            with torch.no_grad():
                ids.append(int(plain(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
            if ids[-1] == tokenizer.eos_id:
                break
        answer = [token for token in ids[len(item.encoded.prompt) :] if token != tokenizer.eos_id]
        assert row["generated"] == tokenizer.decode(answer).strip()


def test_a_question_longer_than_the_window_is_listed_and_not_asked(
    evaluate: Evaluate, questions: Path, tmp_path: Path
) -> None:
    lines = (questions / "medmcqa" / "test.jsonl").read_text().splitlines()
    long = {**json.loads(lines[0]), "id": "long", "question": "word " * 900}
    (questions / "long.jsonl").write_text("\n".join([json.dumps(long), *lines[1:4]]) + "\n")
    task = evaluate("exam=long.jsonl").folder.results()["tasks"]["exam"]
    assert (task["items"], task["left_out"]) == (3, {"question longer than the window": 1})
    rejected = [json.loads(line) for line in (tmp_path / "out" / "rejects_exam.jsonl").read_text().splitlines()]
    assert [(entry["id"], entry["reason"]) for entry in rejected] == [("long", "question longer than the window")]


def test_a_dry_run_says_what_it_costs_and_refuses_what_cannot_be(model: Path, questions: Path, corpus: Path) -> None:
    tasks = parse_tasks([f"abstracts={questions / 'pubmedqa' / 'ori_pqal.json'}"], [], [])
    settings = EvaluateSettings(model=model, tasks=tasks, shots=2)
    lines = describe(settings, 1)
    said = next(line for line in lines if "continuations" in line)
    plain, computed = (int(part.replace(",", "")) for part in re.findall(r"([\d,]+) (?:tokens|are)", said))
    assert "48 continuations" in said
    assert computed < plain / 3
    assert any("Question:" in line for line in lines)
    with pytest.raises(ConfigError, match="fewer than the model's context of 512; lower --max-new-tokens"):
        describe(settings.model_copy(update={"mode": "generate", "max_new_tokens": 512}), 1)
    with pytest.raises(CheckpointError, match="no run of adapters"):
        describe(settings.model_copy(update={"base": questions}), 1)
    domains = settings.model_copy(update={"tasks": [], "perplexity": {"p": corpus / "validation"}, "samples": 3})
    assert "perplexity of p: 3 windows of 512 tokens, of " in describe(domains, 1)[-1]
    with pytest.raises(TopologyError, match="num_attention_heads"):
        describe(settings.model_copy(update={"tensor_parallel_size": 3}), 3)
