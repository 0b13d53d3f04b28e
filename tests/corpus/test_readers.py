"""Reading both S2ORC layouts, whole and damaged: what is wrong is counted by reason and place, the rest is read."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from megabiomed.corpus.readers import read_papers
from megabiomed.corpus.readers_lines import read_records
from megabiomed.corpus.records import Rejects, Span
from megabiomed.ground.errors import ConfigError, DataError

DATA = Path(__file__).parents[3] / "shared" / "data"
TEXT = "A title\n\nSome words of a paper [1]."


def record(**changes: Any) -> dict[str, Any]:
    annotations = {"title": '[{"start": 0, "end": 7}]', "paragraph": '[{"start": 9, "end": 35}]', "author": None}
    value: dict[str, Any] = {
        "corpusid": 7,
        "externalids": {"pubmedcentral": "123", "pubmed": None, "doi": "10.1/x"},
        "content": {"text": TEXT, "annotations": annotations},
    }
    value["content"].update(changes.pop("content", {}))
    return {**value, **changes}


def write(path: Path, *rows: Any) -> Path:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    data = b"\n".join(lines) + b"\n"
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path


def read(path: Path, **options: Any) -> tuple[list[Any], Rejects]:
    rejects = Rejects()
    return list(read_papers(path, rejects=rejects, **options)), rejects


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_a_record_becomes_a_paper_that_knows_its_place(tmp_path, name):
    first, second = record(), record(corpusid=8)
    papers, rejects = read(write(tmp_path / name, first, second))
    assert [paper.paper_id for paper in papers] == ["7", "8"]
    paper = papers[1]
    assert (paper.title, paper.text, paper.ids) == ("A title", TEXT, {"pmc": "123", "doi": "10.1/x"})
    assert paper.spans == {"title": [Span(0, 7)], "paragraph": [Span(9, 35)]}
    assert (paper.source, paper.line, paper.offset) == (name, 2, len(json.dumps(first)) + 1)
    assert not rejects.counts


def test_ids_are_accepted_in_mixed_case_with_prefix_and_as_numbers(tmp_path):
    ids = {"PubMedCentral": "PMC55", "PubMed": 66, "DOI": "", "CorpusId": 7}
    papers, rejects = read(write(tmp_path / "a.jsonl", record(externalids=ids)))
    assert papers[0].ids == {"pmc": "55", "pubmed": "66"}
    assert not rejects.counts


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"{not json", "record: invalid JSON"),
        (b"[" * 200_000, "record: invalid JSON"),
        (b'{"corpusid": "\xff"}', "record: invalid UTF-8"),
        ([1, 2], "record: not an object"),
        ({"unrelated": 1}, "record: unknown layout"),
        (record(corpusid=None), "record: no corpusid"),
        (record(corpusid=True), "record: no corpusid"),
        ({"corpusid": 7}, "record: no content"),
        (record(content={"text": None}), "record: text is null or missing"),
        (record(content={"text": 5}), "record: text is of another type"),
        (record(content={"text": " \n"}), "record: text is empty"),
        ({"paper_id": "x y"}, "record: no paper_id"),
        ({"paper_id": "5", "title": "only a title"}, "record: text is empty"),
        (b"   ", "input: blank line"),
    ],
)
def test_a_damaged_record_is_counted_with_its_line_and_the_next_is_read(tmp_path, row, reason):
    path = write(tmp_path / "a.jsonl", record(), row, record(corpusid=9))
    papers, rejects = read(path)
    assert [paper.paper_id for paper in papers] == ["7", "9"]
    assert rejects.counts == {reason: 1}
    assert f"{path}:2" in rejects.samples[reason][0]


@pytest.mark.parametrize(
    ("spans", "reason", "kept"),
    [
        ("[{]", "span: list is not JSON", []),
        ('{"start": 0, "end": 1}', "span: list is of another type", []),
        (5, "span: list is of another type", []),
        ('[3, {"start": 0, "end": 1}]', "span: not an object", [(0, 1)]),
        ('[{"start": 0}, {"start": 0, "end": 1}]', "span: offset missing or not a whole number", [(0, 1)]),
        ('[{"start": 0.5, "end": 1}]', "span: offset missing or not a whole number", []),
        ('[{"start": true, "end": 2}]', "span: offset missing or not a whole number", []),
        ('[{"start": "x", "end": 2}]', "span: offset missing or not a whole number", []),
        ('[{"start": -1, "end": 2}]', "span: negative offset", []),
        ('[{"start": 0, "end": 36}]', "span: beyond the text", []),
        ('[{"start": 4, "end": 4}]', "span: empty or reversed", []),
        ('[{"start": 5, "end": 4}]', "span: empty or reversed", []),
        ('[{"start": 3, "end": 9}, {"start": 0, "end": 4}]', "span: overlap, kept", [(0, 4), (3, 9)]),
        ('[{"start": 0, "end": 2, "attributes": 5}]', "span: attributes are not an object, dropped", [(0, 2)]),
    ],
)
def test_a_bad_span_is_dropped_alone_and_counted(tmp_path, spans, reason, kept):
    papers, rejects = read(write(tmp_path / "a.jsonl", record(content={"annotations": {"author": spans}})))
    assert [(span.start, span.end) for span in papers[0].spans.get("author", [])] == kept
    assert rejects.counts == {reason: 1}
    assert "author" in rejects.samples[reason][0]


@pytest.mark.parametrize("spans", [None, "", "null", "[]"])
def test_an_annotation_without_spans_is_no_damage(tmp_path, spans):
    papers, rejects = read(write(tmp_path / "a.jsonl", record(content={"annotations": {"author": spans}})))
    assert papers[0].spans == {}
    assert not rejects.counts


def test_offsets_may_be_text_and_lists_may_be_decoded_already(tmp_path):
    annotations = {
        "title": '[{"start": "0", "end": "7"}]',
        "bibref": [{"start": 31, "end": 34, "attributes": {"a": 1}}],
    }
    papers, rejects = read(write(tmp_path / "a.jsonl", record(content={"annotations": annotations})))
    assert papers[0].spans == {"title": [Span(0, 7)], "bibref": [Span(31, 34, {"a": 1})]}
    assert not rejects.counts


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"externalids": None}, "field: external ids missing"),
        ({"externalids": {"doi": ["x"]}}, "field: external id of another type"),
        ({"content": {"annotations": None}}, "field: annotations missing"),
        ({"content": {"text": "lone \ud800 surrogate"}}, "field: lone surrogates replaced"),
    ],
)
def test_a_damaged_field_costs_the_field_and_not_the_paper(tmp_path, changes, reason):
    papers, rejects = read(write(tmp_path / "a.jsonl", record(**changes)))
    assert len(papers) == 1
    assert rejects.counts[reason] == 1
    papers[0].text.encode()


def test_a_truncated_gzip_gives_the_papers_before_the_cut(tmp_path):
    rows = [record(corpusid=n, content={"text": f"{TEXT} {n * 7919}"}) for n in range(2000)]
    path = write(tmp_path / "a.jsonl.gz", *rows)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    papers, rejects = read(path)
    assert 100 < len(papers) < 2000
    assert [paper.paper_id for paper in papers] == [str(n) for n in range(len(papers))]
    assert rejects.counts == {"input: truncated gzip": 1}
    assert f"{path}:{len(papers) + 1}" in rejects.samples["input: truncated gzip"][0]


def test_a_flipped_bit_in_a_gzip_is_counted(tmp_path):
    path = write(tmp_path / "a.jsonl.gz", *(record(corpusid=n) for n in range(50)))
    damaged = bytearray(path.read_bytes())
    damaged[-6] ^= 1
    path.write_bytes(damaged)
    assert read(path)[1].counts == {"input: damaged gzip": 1}


def test_an_overlong_line_is_skipped_without_losing_the_offsets(tmp_path):
    path = write(tmp_path / "a.jsonl", {"a": "x" * 5000}, {"b": 1})
    rejects = Rejects()
    found = list(read_records(path, rejects, max_line_bytes=1000))
    assert [item.value for item in found] == [{"b": 1}]
    assert path.read_bytes()[found[0].offset :] == b'{"b": 1}\n'
    assert rejects.counts == {"record: line too long": 1}


def test_an_empty_file_is_counted_even_after_a_truncated_one(tmp_path):
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"abc")[:9])
    (tmp_path / "empty.jsonl").write_bytes(b"")
    rejects = Rejects()
    for name in ("cut.gz", "empty.jsonl"):
        assert list(read_papers(tmp_path / name, rejects=rejects)) == []
    assert rejects.counts == {"input: truncated gzip": 1, "input: empty file": 1}


def test_missing_files_and_unknown_layouts_are_refused_before_reading(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_papers(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="cannot be read"):
        read_papers(tmp_path)
    path = write(tmp_path / "a.jsonl", record())
    with pytest.raises(ConfigError, match="unknown corpus layout: got 's2orc_1999'"):
        read_papers(path, "s2orc_1999")
    with pytest.raises(DataError, match="keeps no parses apart: got layout 's2orc' with pdf_parses"):
        read_papers(path, "s2orc", pdf_parses=path)
    with pytest.raises(DataError, match="holds no parses"):
        read_papers(path, pdf_parses=(tmp_path / "folder").mkdir() or tmp_path / "folder")


def test_without_a_collector_the_first_damage_stops_the_reading(tmp_path):
    papers = read_papers(write(tmp_path / "a.jsonl", record(), b"{"))
    assert next(papers).paper_id == "7"
    with pytest.raises(DataError, match="invalid JSON"):
        next(papers)


METADATA = {"paper_id": "5", "title": "T", "abstract": "A:::B", "year": 2007, "pmc_id": "PMC9", "has_pdf_parse": True}


def parse(**changes: Any) -> dict[str, Any]:
    cites = [{"start": 6, "end": 9, "text": "[1]", "ref_id": "BIBREF0"}]
    figures = [{"start": 0, "end": 5, "text": "First", "ref_id": "TABREF1"}]
    body = [
        {"section": "Intro", "text": "First [1] words.", "cite_spans": cites, "ref_spans": figures},
        {"section": "Intro", "text": "More.", "cite_spans": [], "ref_spans": []},
    ]
    return {"paper_id": "5", "abstract": [], "body_text": body, **changes}


def test_a_2020_parse_is_joined_with_its_metadata_and_its_spans_move_along(tmp_path):
    parses = write(tmp_path / "parses.jsonl.gz", parse())
    papers, rejects = read(write(tmp_path / "metadata.jsonl", METADATA), pdf_parses=parses)
    (paper,) = papers
    assert paper.text == "T\n\nA:B\n\nIntro\n\nFirst [1] words.\n\nMore."
    assert (paper.ids, paper.year, paper.title, paper.source) == ({"pmc": "9"}, 2007, "T", "parses.jsonl.gz")
    marked = {kind: [paper.text[s.start : s.end] for s in spans] for kind, spans in paper.spans.items()}
    assert marked == {
        "title": ["T"],
        "abstract": ["A:B"],
        "sectionheader": ["Intro"],
        "paragraph": ["First [1] words.", "More."],
        "bibref": ["[1]"],
        "tableref": ["First"],
    }
    assert not rejects.counts


def test_the_join_counts_what_has_no_partner(tmp_path):
    rows = [METADATA, METADATA, {**METADATA, "paper_id": "6"}, {**METADATA, "paper_id": "7", "has_pdf_parse": False}]
    parses = write(tmp_path / "parses.jsonl", parse(), parse(paper_id="8"), parse(body_text=5))
    papers, rejects = read(write(tmp_path / "metadata.jsonl", *rows), pdf_parses=parses)
    assert len(papers) == 2
    assert rejects.counts == {
        "record: repeated metadata": 1,
        "record: no full text in this release": 1,
        "record: parse without metadata": 1,
        "record: metadata without parse": 1,
        "field: body_text of another type": 1,
    }


def test_2020_spans_that_contradict_their_paragraph_are_dropped(tmp_path):
    spans = [{"start": 0, "end": 2, "text": "zz"}, {"start": 0, "end": 99}, "x"]
    body = [{"section": 3, "text": "Words.", "cite_spans": spans, "ref_spans": 4}, {"section": "A"}]
    papers, rejects = read(write(tmp_path / "a.jsonl", parse(body_text=body)))
    assert papers[0].text == "Words."
    assert papers[0].spans == {"paragraph": [Span(0, 6)]}
    assert rejects.counts == {
        "span: marks other text than it says": 1,
        "span: beyond the text": 1,
        "span: not an object": 1,
        "span: list is of another type": 1,
        "field: paragraph without text": 1,
    }


@pytest.mark.skipif(not (DATA / "s2orc").is_dir(), reason="../shared/data is absent")
def test_real_papers_are_read_without_rejects():
    rejects = Rejects()
    papers = [paper for path in sorted((DATA / "s2orc").glob("*.gz")) for paper in read_papers(path, rejects=rejects)]
    assert len(papers) == 92
    assert sum("pmc" not in paper.ids for paper in papers) == 10
    assert all(paper.title and paper.spans["paragraph"] for paper in papers)
    assert not rejects.counts


@pytest.mark.skipif(not (DATA / "s2orc_2020").is_dir(), reason="../shared/data is absent")
def test_real_2020_parses_find_their_metadata():
    folder = DATA / "s2orc_2020"
    papers, rejects = read(folder / "metadata" / "sample.jsonl", pdf_parses=folder / "pdf_parses_files")
    assert [paper.paper_id for paper in papers] == ["18980380", "18980463", "94551546"]
    assert papers[1].ids["pmc"] == "1950857"
    assert all(len(paper.spans["bibref"]) > 30 for paper in papers)
    assert rejects.counts == {"record: no full text in this release": 797, "record: metadata without parse": 200}
