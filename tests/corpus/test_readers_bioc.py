"""BioC JSON: the types of the passages say what is text, figure, table, reference and back matter."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from megabiomed.corpus.clean import CleanRules, clean
from megabiomed.corpus.readers import read_papers
from megabiomed.corpus.records import Paper, Rejects


def passage(section: str, kind: str, text: str, **infons: str) -> dict[str, Any]:
    held = {"section_type": section, "type": kind, **infons}
    return {"offset": 0, "infons": held, "text": text, "sentences": [], "annotations": [], "relations": []}


IDS = {
    "article-id_pmc": "PMC12",
    "article-id_pmid": "5",
    "article-id_doi": "10.1/x",
    "year": "2011",
    "license": "CC BY",
}
DOCUMENT: dict[str, Any] = {
    "id": "PMC12",
    "infons": {},
    "passages": [
        passage("TITLE", "front", "On sleep", **IDS),
        passage("KEYWORD", "paragraph", "beds, dreams"),
        passage("ABSTRACT", "abstract_title_1", "Aims:"),
        passage("ABSTRACT", "abstract", "We wanted to\nsleep."),
        passage("INTRO", "title_1", "Introduction"),
        passage("INTRO", "paragraph", "We slept."),
        passage("FIG", "fig_caption", "A bed."),
        passage("TABLE", "table_caption", "Hours."),
        passage("TABLE", "table", "A\t8"),
        passage("DISCUSS", "title_1", "Conflicts of interest"),
        passage("DISCUSS", "paragraph", "We own beds."),
        passage("ACK_FUND", "title_1", "Thanks"),
        passage("ACK_FUND", "paragraph", "The bed paid."),
        passage("REF", "title", "References"),
        passage("REF", "ref", "On running", **{"pub-id_pmid": "99"}),
        passage("SUPPL", "paragraph", "A file."),
        passage("INTRO", "footnote", "A note."),
    ],
}
COLLECTION = {"bioctype": "BioCCollection", "source": "PMC", "infons": {}, "documents": [DOCUMENT]}
ABSTRACT = {
    "pmid": 6,
    "id": "6",
    "passages": [
        {"infons": {"type": "title"}, "text": "Beds"},
        {"infons": {"type": "abstract"}, "text": "", "sentences": [{"text": "They are"}, {"text": "soft."}]},
    ],
}


def read(path: Path, value: Any) -> tuple[list[Paper], Rejects]:
    path.write_text(json.dumps(value, indent=1) if path.suffix == ".json" else json.dumps(value) + "\n")
    rejects = Rejects()
    return list(read_papers(path, rejects=rejects)), rejects


def test_a_document_is_told_apart_by_the_types_of_its_passages(tmp_path: Path) -> None:
    (paper,), rejects = read(tmp_path / "PMC12.json", COLLECTION)
    assert (paper.paper_id, paper.ids) == ("PMC12", {"pmc": "12", "pubmed": "5", "doi": "10.1/x"})
    assert (paper.title, paper.year, paper.licence) == ("On sleep", 2011, "cc-by")
    marked = {name: [paper.text[s.start : s.end] for s in spans] for name, spans in paper.spans.items()}
    assert marked == {
        "title": ["On sleep"],
        "abstract": ["Aims: We wanted to sleep."],
        "sectionheader": ["Introduction", "References"],
        "paragraph": ["We slept."],
        "figure": ["A bed."],
        "table": ["Hours.", "A 8"],
        "conflicts": ["Conflicts of interest", "We own beds."],
        "funding": ["Thanks", "The bed paid."],
        "bibentry": ["On running"],
    }
    assert not rejects.counts
    text = clean(paper, CleanRules(min_words=1), Counter())
    assert text == "On sleep\n\nAims: We wanted to sleep.\n\nIntroduction\n\nWe slept."


@pytest.mark.parametrize(
    "value", [{"documents": [DOCUMENT, ABSTRACT]}, [COLLECTION, ABSTRACT], [DOCUMENT, {"PubTator3": [ABSTRACT]}]]
)
def test_collections_lists_and_single_documents_are_read_alike(tmp_path: Path, value: Any) -> None:
    papers, rejects = read(tmp_path / "a.json", value)
    assert [(p.paper_id, p.ids.get("pubmed")) for p in papers] == [("PMC12", "5"), ("PMID6", "6")]
    assert papers[1].text == "Beds\n\nThey are soft."
    assert papers[1].is_abstract
    assert not rejects.counts


def test_a_package_holds_json_under_any_name_and_a_broken_file_costs_one_paper(tmp_path: Path) -> None:
    members = {
        "PMC12.xml": json.dumps([COLLECTION], indent=1), "broken.xml": '{"documents": [', "6.json": json.dumps(ABSTRACT),
        "lines.jsonl": json.dumps({"text": "One."}) + "\n" + json.dumps({"text": "Two."}),
    }  # fmt: skip
    path = tmp_path / "PMC000XXXXX_json_unicode.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    rejects = Rejects()
    papers = list(read_papers(path, rejects=rejects))
    assert [(p.paper_id, p.line) for p in papers] == [
        ("PMC12", 1), ("PMID6", 2), (f"{path.name}:3", 3), (f"{path.name}:4", 4)
    ]  # fmt: skip
    assert rejects.counts == {"record: invalid JSON": 1}
    assert "broken.xml" in rejects.samples["record: invalid JSON"][0]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"documents": [{"id": "5", "passages": None}]}, "record: no passages"),
        ({"documents": [5]}, "record: no passages"),
        ({"documents": None}, "record: no passages"),
        ({"documents": []}, "record: no passages"),
        ({"passages": []}, "record: text is empty"),
        ({"passages": [passage("TITLE", "front", "On sleep"), passage("REF", "ref", "X")]}, "record: text is empty"),
        ({"passages": [5, *DOCUMENT["passages"]]}, "field: passage of another type"),
    ],
)
def test_damage_is_counted(tmp_path: Path, value: Any, reason: str) -> None:
    papers, rejects = read(tmp_path / "a.jsonl", value)
    assert rejects.counts == {reason: 1}
    assert len(papers) == (not reason.startswith("record:"))
