"""Evaluation questions and near duplicates inside papers are found, removed and reported by hash."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megabiomed.corpus.build import BuildOptions, build_corpus
from megabiomed.corpus.clean import CleanRules
from megabiomed.corpus.decontaminate import Contamination, prompt_hash, read_items
from megabiomed.data.store import TokenStore
from megabiomed.ground.errors import DataError

QUESTION = "Which of the following enzymes breaks the phosphodiester bond between two adjacent nucleotides of DNA?"


def document(number: int, extra: str = "") -> str:
    return " ".join(f"word{(7 * number + n) % 400} measured{n % 13}" for n in range(150)) + extra


def build(tmp_path: Path, texts: list[str], **options: Any) -> dict[str, Any]:
    rows = (json.dumps({"text": text, "id": f"p{n}"}) for n, text in enumerate(texts))
    (tmp_path / "t.jsonl").write_text("\n".join(rows))
    rules = CleanRules(require_medical_id=False, min_words=5)
    chosen = BuildOptions(
        [tmp_path / "t.jsonl"],
        tmp_path / "c",
        vocab_size=305,
        validation_fraction=0.0,
        workers=1,
        rules=rules,
        **options,
    )
    return build_corpus(chosen)


def questions(tmp_path: Path) -> Path:
    path = tmp_path / "mcq.json"
    path.write_text("\n".join(json.dumps({"id": n, "question": q}) for n, q in enumerate([QUESTION, "Too short?"])))
    return path


@pytest.mark.parametrize("remove", [True, False])
def test_a_paper_with_a_question_is_removed_or_the_item_is_marked(tmp_path: Path, remove: bool) -> None:
    texts = [document(0), document(31, " Then: " + QUESTION.upper()), document(77)]
    report = build(tmp_path, texts, evaluation=[questions(tmp_path)], remove_contaminated=remove)
    store = TokenStore.open(tmp_path / "c" / "train")
    assert [store.paper_id(n) for n in range(store.num_documents)] == (["p0", "p2"] if remove else ["p0", "p1", "p2"])
    found = json.loads((tmp_path / "c" / "train" / "decontamination.json").read_text())
    assert found["items"] == [
        {"set": "mcq.json", "item_id": "0", "prompt_sha256": prompt_hash(QUESTION), "in_store": not remove}
    ]
    assert found["papers"][0]["paper_id"] == "p1"
    assert found["papers"][0]["items"] == [["mcq.json", "0", 1.0]]
    assert (found["sets"][0]["items"], found["sets"][0]["searched"]) == (2, 1)
    assert report["counts"].get("papers: dropped, evaluation items in them", 0) == int(remove)


def test_pubmedqa_lists_and_single_objects_are_read_and_others_refused(tmp_path: Path) -> None:
    for content in ({"11": {"QUESTION": QUESTION}}, [{"id": "11", "prompt": QUESTION}], {"id": 11, "text": QUESTION}):
        (tmp_path / "e.json").write_text(json.dumps(content))
        (item,) = read_items(tmp_path / "e.json")
        assert (item.item_id, item.prompt_sha256) == ("11", prompt_hash(QUESTION))
        half = Contamination([item])
        assert half.find("So: " + QUESTION)
        assert not half.find(QUESTION[: len(QUESTION) // 2])
    (tmp_path / "e.json").write_text('{"a": {"b": 1}}')
    with pytest.raises(DataError, match="holds no questions"):
        read_items(tmp_path / "e.json")


def test_near_duplicates_are_dropped_and_the_first_stays(tmp_path: Path) -> None:
    texts = [document(0), document(200), document(0, " one more ending of it")]
    report = build(tmp_path, texts, near_dedup=True)
    assert report["counts"]["papers: dropped, near duplicate"] == 1
    store = TokenStore.open(tmp_path / "c" / "train")
    assert [store.paper_id(n) for n in range(store.num_documents)] == ["p0", "p1"]
