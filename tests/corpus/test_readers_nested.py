"""The release of 2019, doc2json, plain texts, Parquet and zstd: each layout is recognised, damage is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import zstandard

from megabiomed.corpus.readers import read_papers
from megabiomed.corpus.records import Paper, Rejects
from megabiomed.ground.errors import DataError

BODY = [
    {"section": "Methods", "text": "We measured it [1].", "cite_spans": [{"start": 15, "end": 18}], "ref_spans": []}
]
OLD = {
    "paper_id": "77",
    "metadata": {"title": "Heart", "abstract": "Short.", "year": "2011", "pmc_id": "PMC12", "pubmed_id": None},
    "grobid_parse": {"abstract": [], "body_text": BODY},
    "latex_parse": None,
}
DOC = {
    "paper_id": "PMC9",
    "title": "Kidney",
    "abstract": "About it.",
    "identifiers": {"doi": "10.1/x"},
    "pdf_parse": {"abstract": [], "body_text": BODY},
}


def papers(path: Path, *rows: Any) -> tuple[list[Paper], Rejects]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rejects = Rejects()
    return list(read_papers(path, "auto", rejects)), rejects


def test_the_release_of_2019_has_its_metadata_inside(tmp_path: Path) -> None:
    (paper,), rejects = papers(tmp_path / "a.jsonl", OLD)
    assert (paper.paper_id, paper.year, paper.ids) == ("77", 2011, {"pmc": "12"})
    assert paper.text == "Heart\n\nShort.\n\nMethods\n\nWe measured it [1]."
    assert [paper.text[s.start : s.end] for s in paper.spans["bibref"]] == ["[1]"]
    assert not rejects.counts


def test_a_doc2json_file_over_many_lines_is_one_paper(tmp_path: Path) -> None:
    path = tmp_path / "PMC9.json"
    path.write_text(json.dumps(DOC, indent=4))
    (paper,) = read_papers(path)
    assert (paper.paper_id, paper.ids) == ("PMC9", {"doi": "10.1/x", "pmc": "9"})
    assert "Methods" in paper.text


def test_plain_texts_are_named_by_id_or_by_place(tmp_path: Path) -> None:
    found, _ = papers(tmp_path / "t.jsonl", {"text": "One.", "id": "a"}, {"text": "Two."})
    assert [(p.paper_id, p.text, p.offset) for p in found] == [("a", "One.", 0), ("t.jsonl:2", "Two.", 28)]


def test_parquet_rows_are_read_as_texts(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"text": ["One.", "Two."], "id": ["a", "b"]}), tmp_path / "t.parquet")
    assert [(p.paper_id, p.text) for p in read_papers(tmp_path / "t.parquet")] == [("a", "One."), ("b", "Two.")]
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        list(read_papers(tmp_path / "broken.parquet"))


@pytest.mark.parametrize("wrong", [None, [], "text", 3, {"paper_id": True}])
def test_wrong_types_are_counted_and_never_raised(tmp_path: Path, wrong: Any) -> None:
    for key in ("paper_id", "metadata", "grobid_parse"):
        found, rejects = papers(tmp_path / "a.jsonl", {**OLD, key: wrong})
        assert len(found) == 1 or rejects.records == 1


def test_zstd_is_read_over_frames_and_a_truncated_file_is_counted(tmp_path: Path) -> None:
    frames = [zstandard.compress(f'{{"text": "number {n}"}}\n'.encode() * 500) for n in range(3)]
    path = tmp_path / "t.jsonl.zst"
    path.write_bytes(b"".join(frames))
    assert len(list(read_papers(path))) == 1500
    for data, reason in (
        (b"".join(frames)[:-5], "truncated"),
        (frames[0] + frames[1][:9] + b"~~~~~~~~" * 9, "damaged"),
    ):
        path.write_bytes(data)
        rejects = Rejects()
        assert len(list(read_papers(path, "auto", rejects))) >= 500
        assert list(rejects.counts) == [f"input: {reason} zstd"]
