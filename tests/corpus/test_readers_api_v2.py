"""Papers of `s2orc_v2`: the title and the body are the text, the bibliography names the cited works."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from megabiomed.corpus.clean import CleanRules, clean
from megabiomed.corpus.readers import read_papers
from megabiomed.corpus.records import Paper, Rejects

BODY = "Methods\n\nWe fed the mice sugar [1]. They slept."
BIBLIOGRAPHY = "[1] Nurmi P. On running. 1924."


def marks(text: str, **pieces: Any) -> dict[str, str]:
    """Annotations as the API writes them: name to JSON text; a piece is its text, or its text and its attributes."""
    out = {}
    for name, piece in pieces.items():
        words, attributes = piece if isinstance(piece, tuple) else (piece, None)
        span = {"start": text.index(words), "end": text.index(words) + len(words)}
        out[name] = json.dumps([span | ({"attributes": attributes} if attributes else {})])
    return out


RECORD: dict[str, Any] = {
    "corpusid": 42,
    "title": "Sugar and\n sleep",
    "authors": [{"authorid": "1", "name": "A B"}],
    "openaccessinfo": {"externalids": {"PubMed": "5", "PubMedCentral": None, "DOI": "10.1/x"}, "license": "CCBYNC"},
    "body": {
        "text": BODY,
        "annotations": {
            **marks(BODY, section_header=("Methods", {"n": "1."}), paragraph="We fed the mice sugar [1]. They slept."),
            **marks(BODY, bib_ref=("[1]", {"ref_id": "b0"}), sentence="They slept."),
        },
    },
    "bibliography": {
        "text": BIBLIOGRAPHY,
        "annotations": marks(
            BIBLIOGRAPHY,
            bib_entry=(BIBLIOGRAPHY, {"id": "b0"}),
            bib_title="On running",
            bib_author_last_name="Nurmi",
        ),
    },
}


def read(folder: Path, record: Any) -> tuple[list[Paper], Rejects]:
    path, rejects = folder / "a.jsonl", Rejects()
    path.write_text(json.dumps(record) + "\n")
    return list(read_papers(path, rejects=rejects)), rejects


def test_title_and_body_are_one_text_with_the_spans_of_the_older_dataset(tmp_path: Path) -> None:
    (paper,), rejects = read(tmp_path, RECORD)
    assert (paper.paper_id, paper.ids, paper.licence) == ("42", {"pubmed": "5", "doi": "10.1/x"}, "cc-by-nc")
    assert paper.text == f"Sugar and sleep\n\n{BODY}"
    marked = {name: [paper.text[s.start : s.end] for s in spans] for name, spans in paper.spans.items()}
    assert marked == {
        "title": ["Sugar and sleep"],
        "sectionheader": ["Methods"],
        "paragraph": ["We fed the mice sugar [1]. They slept."],
        "bibref": ["[1]"],
    }
    assert paper.references == {"b0": ("On running", "Nurmi")}
    assert not rejects.counts


def test_the_cleaning_rules_are_those_of_the_older_dataset(tmp_path: Path) -> None:
    (paper,), _ = read(tmp_path, RECORD)
    rules = CleanRules(min_words=1)
    assert clean(paper, rules, Counter()) == "Sugar and sleep\n\nMethods\n\nWe fed the mice sugar. They slept."
    rules = CleanRules(min_words=1, mark_citations=True)
    assert "sugar [bib_ref] On running, Nurmi [/bib_ref]" in str(clean(paper, rules, Counter()))


def test_a_title_that_the_body_marks_is_not_written_twice(tmp_path: Path) -> None:
    body = f"Sugar and sleep\n\n{BODY}"
    marked = {"text": body, "annotations": marks(body, title="Sugar and sleep")}
    (paper,), _ = read(tmp_path, {**RECORD, "body": marked})
    assert paper.text == body


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"body": None}, "record: no body"),
        ({"body": {"text": None}}, "record: text is null or missing"),
        ({"body": {"text": 5}}, "record: text is of another type"),
        ({"body": {"text": " "}}, "record: text is empty"),
        ({"corpusid": "x"}, "record: no corpusid"),
        ({"title": ["Sugar"]}, "field: title of another type"),
        ({"openaccessinfo": None}, "field: external ids missing"),
        ({"bibliography": {"text": "short", "annotations": {"bib_entry": "{"}}}, "span: list is not JSON"),
    ],
)
def test_damage_is_counted_and_costs_no_more_than_it_must(tmp_path: Path, changes: Any, reason: str) -> None:
    papers, rejects = read(tmp_path, {**RECORD, **changes})
    assert rejects.counts == {reason: 1}
    assert len(papers) == (not reason.startswith("record:"))


def test_a_paper_without_a_bibliography_has_no_references(tmp_path: Path) -> None:
    for bibliography in (None, "", [], {}, {"text": None, "annotations": None}):
        (paper,), rejects = read(tmp_path, {**RECORD, "bibliography": bibliography})
        assert not paper.references
        assert not rejects.counts
