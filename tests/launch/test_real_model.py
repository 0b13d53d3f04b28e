"""`make real-model` without the model: general text, the tokenizer's repair, the choice of the file and the table."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from megabiomed.ground.errors import DataError
from megabiomed.launch import real_model


def records(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]


def test_pythons_manual_is_written_with_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name in "ab":
        real_model.main(["general", str(tmp_path / name)])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sum(len(record["text"].split()) for record in records(tmp_path / "a")) > 20_000


def test_abstracts_near_biomedicine_or_of_an_unknown_field_are_not_replayed(tmp_path: Path) -> None:
    fields = {"1": ["Physics"], "2": ["Physics", "Medicine"], "3": None, "4": ["History"]}
    papers = [
        {
            "paper_id": number,
            "title": f"Title {number}",
            "abstract": "Text." if number != "4" else None,
            "mag_field_of_study": of,
        }
        for number, of in fields.items()
    ]
    (tmp_path / "papers.jsonl").write_text("\n".join(map(json.dumps, papers)))
    real_model.main(["sciences", str(tmp_path / "papers.jsonl"), str(tmp_path / "out.gz")])
    assert records(tmp_path / "out.gz") == [{"id": "s2orc-1", "text": "Title 1\n\nText."}]


def test_digits_stand_alone_after_the_repair_and_space_before_them_stays_together() -> None:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    pieces = {"Ġ": 0, "1": 1, "2": 2, "ĠĠ": 3}
    model = {"type": "BPE", "vocab": pieces, "merges": [["Ġ", "Ġ"]], "unk_token": None}
    read = {"version": "1.0", "added_tokens": [], "pre_tokenizer": byte_level, "model": model}
    repaired = Tokenizer.from_str(json.dumps(real_model.with_single_digits(read)))
    assert repaired.encode("  12").tokens == ["ĠĠ", "1", "2"]
    assert Tokenizer.from_str(json.dumps(read)).encode("  12").tokens == ["Ġ", "Ġ", "1", "2"]


@pytest.mark.parametrize("names", [(), ("a.gguf", "b.gguf")])
def test_a_folder_without_one_model_is_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=", ".join(names) or "none"):
        real_model.gguf_file(tmp_path)


def test_the_table_has_a_line_for_each_model_and_an_empty_cell_for_what_was_not_measured(tmp_path: Path) -> None:
    accuracy = {"accuracy": {"value": 0.5, "low": 0.4, "high": 0.6}, "items": 100}
    for name, tasks in (("before", {}), ("after", {"pubmedqa": accuracy})):
        results = {"perplexity": {"papers": {"perplexity": 12.345 if tasks else "not finite"}}, "tasks": tasks}
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(results))
    assert real_model.summary([tmp_path / "before", tmp_path / "after"]).splitlines() == [
        "| model | perplexity, papers | pubmedqa, 100 questions |",
        "| --- | --- | --- |",
        "| before | not finite |  |",
        "| after | 12.35 | 50.0 [40.0, 60.0] |",
    ]
    with pytest.raises(SystemExit, match="no finished evaluation"):
        real_model.main(["table", str(tmp_path / "missing")])
