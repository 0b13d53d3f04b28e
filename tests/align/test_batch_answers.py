"""A file of questions gives one line for each entry: an answer, or the reason why there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest

from megabiomed.align.chat import Answer, Chat, Sampling, answer_file
from megabiomed.ground.errors import DataError
from megabiomed.samples.multimodal.records import MultimodalQuestion


class Parrot:
    """In place of a model: repeats the question, and does not end a long one."""

    def answer(self, record: MultimodalQuestion, sampling: Sampling) -> Answer:
        if record.question == "refused":
            raise DataError("the prompt fills the whole context")
        cut = len(record.question) > sampling.max_new_tokens
        return Answer(record.question[: sampling.max_new_tokens], cut, ("proteins_truncated",) if cut else ())


def test_every_entry_gives_one_line_and_a_second_run_adds_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: list[Any] = [
        {"smiles": "CCO", "question": "What?", "answer": "a"}, {"smiles": "CCO", "question": "without a reference"},
        {"smiles": "CCO", "question": "refused", "answer": "a"}, {"smiles": "CCO", "question": None, "answer": "a"},
    ]  # fmt: skip
    lines = [json.dumps(row) for row in rows]
    (tmp_path / "q.jsonl").write_text("\n".join([*lines, "{bad"]))
    output = tmp_path / "answers.jsonl"
    for _ in range(2):
        answer_file(cast(Chat, Parrot()), tmp_path / "q.jsonl", output, Sampling(max_new_tokens=10))
    found = {line["id"]: line for line in map(json.loads, output.read_text().splitlines())}
    assert len(output.read_text().splitlines()) == len(found) == 5
    assert found["q.jsonl:1"] == {
        "id": "q.jsonl:1", "question": "What?", "answer": "What?", "cut": False, "reference": "a",
    }  # fmt: skip
    assert (found["q.jsonl:2"]["cut"], found["q.jsonl:2"]["reference"]) == (True, "")
    assert found["q.jsonl:2"]["changes"] == ["proteins_truncated"]
    assert "whole context" in found["q.jsonl:3"]["error"]
    assert found["q.jsonl:4"]["error"].startswith("no question")
    assert found["q.jsonl:5"]["error"].startswith("no JSON")
    assert "3 answers, 1 cut at 10 tokens, proteins truncated: 1, 2 that are no question" in capsys.readouterr().out
