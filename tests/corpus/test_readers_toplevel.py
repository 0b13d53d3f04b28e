"""CORD-19, S2ORC 20210101 and doc2json's own form: the parse stands beside the metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megabiomed.corpus.readers import read_papers
from megabiomed.corpus.records import Paper, Rejects


def paragraph(section: str, text: str, **spans: Any) -> dict[str, Any]:
    return {"section": section, "text": text, "cite_spans": [], "ref_spans": [], "eq_spans": [], **spans}


RECORD: dict[str, Any] = {
    "paper_id": "PMC12",
    "metadata": {"title": "On sleep", "authors": [], "year": "2011-11", "identifiers": {"doi": "10.1/x"}},
    "abstract": [paragraph("Abstract", "Short.")],
    "body_text": [
        paragraph("Methods", "We slept [1].", cite_spans=[{"start": 9, "end": 12, "text": "[1]", "ref_id": "BIBREF0"}]),
        paragraph("Methods::Beds", "Soft ones."),
        paragraph(
            "Methods::Beds", "FORMULA0 of them.", eq_spans=[{"start": 0, "end": 8, "text": "n = 3", "ref_id": None}]
        ),
        paragraph("Results", "We woke."),
    ],
    "bib_entries": {"BIBREF0": {"title": "On running", "authors": [{"last": "Nurmi"}]}},
    "ref_entries": {},
    "back_matter": [paragraph("Acknowledgements", "We thank the bed.")],
}
TEXT = (
    "On sleep\n\nShort.\n\nMethods\n\nWe slept [1].\n\nBeds\n\nSoft ones.\n\nFORMULA0 of them.\n\nResults\n\nWe woke."
)


def read(path: Path, value: Any) -> tuple[list[Paper], Rejects]:
    path.write_text(json.dumps(value, indent=2))
    rejects = Rejects()
    return list(read_papers(path, rejects=rejects)), rejects


def test_the_paragraphs_of_a_record_are_its_text_and_its_name_is_an_id(tmp_path: Path) -> None:
    (paper,), rejects = read(tmp_path / "PMC12.xml.json", RECORD)
    assert (paper.paper_id, paper.ids, paper.year) == ("PMC12", {"doi": "10.1/x", "pmc": "12"}, 2011)
    assert paper.text == TEXT
    assert [TEXT[s.start : s.end] for s in paper.spans["sectionheader"]] == ["Methods", "Beds", "Results"]
    assert [TEXT[s.start : s.end] for s in (*paper.spans["bibref"], *paper.spans["formula"])] == ["[1]", "FORMULA0"]
    assert paper.references == {"BIBREF0": ("On running", "Nurmi")}
    assert not rejects.counts


def test_a_paper_named_by_its_pdf_has_no_medical_id_and_pmc_files_have_no_abstract(tmp_path: Path) -> None:
    value = {key: held for key, held in RECORD.items() if key != "abstract"} | {"paper_id": "0f" * 20}
    (paper,), rejects = read(tmp_path / "a.json", value)
    assert (paper.paper_id, paper.ids) == ("0f" * 20, {"doi": "10.1/x"})
    assert "abstract" not in paper.spans
    assert not rejects.counts


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"paper_id": None}, "record: no paper_id"),
        ({"metadata": []}, "record: metadata is not an object"),
        ({"body_text": [], "abstract": []}, "record: text is empty"),
        ({"body_text": [{"text": None}, *RECORD["body_text"]]}, "field: paragraph without text"),
    ],
)
def test_damage_is_counted(tmp_path: Path, changes: Any, reason: str) -> None:
    papers, rejects = read(tmp_path / "a.json", {**RECORD, **changes})
    assert rejects.counts == {reason: 1}
    assert len(papers) == (not reason.startswith("record:"))


def test_doc2json_of_pubmed_centrals_own_xml_is_read(tmp_path: Path) -> None:
    parse = {key: RECORD[key] for key in ("abstract", "body_text", "back_matter", "bib_entries")}
    identifiers = {"doi": "10.1/x", "pubmed_id": "5", "pmc_id": None}
    value = {"paper_id": "PMC12", "title": "On sleep", "year": None, "identifiers": identifiers, "jats_parse": parse}
    (paper,), rejects = read(tmp_path / "PMC12.json", value)
    assert (paper.text, paper.ids) == (TEXT, {"doi": "10.1/x", "pubmed": "5", "pmc": "12"})
    assert not rejects.counts
