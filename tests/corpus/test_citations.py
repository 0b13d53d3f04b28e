"""Citations become what they cite where that is known, as MEDITRON writes them, and go as before where it is not."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from megabiomed.corpus.clean import CleanRules, clean
from megabiomed.corpus.readers import read_papers

RULES = CleanRules(min_words=1, require_medical_id=False, mark_citations=True)
BODY = "Insulin lowers glucose [1]. So does exercise (2; 3). Nobody knows why [4]. Sleep too 5."
LONG = "One two three four five six seven eight nine ten eleven twelve thirteen"


def api_record(tmp_path: Path) -> Path:
    """A record of the Datasets API: references in the text's end, [4] without an author, and a citation in a caption."""
    references = [
        (f"{LONG}.", "Banting"),
        ("On running", "Nurmi"),
        ("On walking", "Strolz"),
        ("Nameless", ""),
        ("", "X"),
    ]
    text, marks = BODY + "\n\nFigure 1: glucose [1].\n\n", {}

    def mark(kind: str, start: int, piece: str, **attributes: str) -> None:
        span = {"start": start, "end": start + len(piece), "attributes": attributes}
        marks.setdefault(kind, []).append(span)

    mark("paragraph", 0, BODY)
    mark("figurecaption", len(BODY) + 2, "Figure 1: glucose [1].")
    for number in range(5):
        mark("bibref", BODY.index(str(number + 1)), str(number + 1), ref_id=f"b{number}")
    mark("bibref", text.rindex("1]"), "1", ref_id="b0")
    for number, (title, name) in enumerate(references):
        entry = f"{name}: {title}"
        mark("bibentry", len(text), entry, id=f"b{number}")
        if name:
            mark("bibauthorlastname", len(text), name)
        if title:
            mark("bibtitle", len(text) + len(name) + 2, title.removesuffix("."))
        text += entry + "\n"
    content = {"text": text, "annotations": {kind: json.dumps(spans) for kind, spans in marks.items()}}
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"corpusid": 1, "externalids": {}, "content": content}) + "\n")
    return path


def nested_record(tmp_path: Path) -> Path:
    """The same paper in the layout of 2019 and 20200705v1, whose references stand apart from the text."""
    names = [(LONG, "Banting"), ("On running", "Nurmi"), ("On walking", "Strolz"), ("Nameless", None), (None, "X")]
    entries = {
        f"BIBREF{number}": {"title": title, "authors": [{"last": name}] if name else []}
        for number, (title, name) in enumerate(names)
    }
    spans = [
        {"start": BODY.index(str(n + 1)), "end": BODY.index(str(n + 1)) + 1, "ref_id": f"BIBREF{n}"} for n in range(5)
    ]
    body = [{"section": "", "text": BODY, "cite_spans": spans, "ref_spans": []}]
    parse: dict[str, Any] = {"body_text": body, "bib_entries": {**entries, "BIBREF9": "x", "BIBREF8": {"authors": [3]}}}
    path = tmp_path / "b.jsonl"
    path.write_text(json.dumps({"paper_id": "1", "metadata": {"title": ""}, "grobid_parse": parse}) + "\n")
    return path


@pytest.mark.parametrize("write", [api_record, nested_record])
def test_known_works_are_named_and_unknown_citations_go(write: Any, tmp_path: Path) -> None:
    (paper,) = read_papers(write(tmp_path))
    counts = Counter[str]()
    assert clean(paper, RULES, counts) == (
        "Insulin lowers glucose [bib_ref] One two three four five six seven eight nine ten eleven twelve..., Banting "
        "[/bib_ref]. So does exercise ( [bib_ref] On running, Nurmi [/bib_ref]; [bib_ref] On walking, Strolz [/bib_ref] ). "
        "Nobody knows why. Sleep too."
    )
    assert counts["citations: marked"] == 3


def test_nothing_is_marked_unless_it_is_asked_for(tmp_path: Path) -> None:
    (paper,) = read_papers(api_record(tmp_path))
    counts = Counter[str]()
    text = clean(paper, CleanRules(min_words=1, require_medical_id=False), counts)
    assert text == "Insulin lowers glucose. So does exercise. Nobody knows why. Sleep too."
    assert "citations: marked" not in counts
