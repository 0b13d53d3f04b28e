"""External ids are found under any spelling, in any of the shapes in which tables and records hold them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megabiomed.corpus.external_ids import find_ids, first_of
from megabiomed.corpus.readers import read_papers
from megabiomed.corpus.records import Rejects


@pytest.mark.parametrize(
    ("record", "ids"),
    [
        ({"external_ids": {"pubmed": "5", "pubmedcentral": 12}}, {"pubmed": "5", "pmc": "12"}),
        ({"externalIds": {"PubMed": "5", "PubMedCentral": "PMC12", "CorpusId": 7}}, {"pubmed": "5", "pmc": "12"}),
        ({"external_ids": '{"DOI": "https://doi.org/10.1/X", "ArXiv": "1.2"}'}, {"doi": "10.1/X", "arxiv": "1.2"}),
        ({"external_ids": [("PubMed", "5"), ("MAG", 3.0)]}, {"pubmed": "5", "mag": "3"}),
        (
            {"identifiers": [{"type": "pmid", "value": 5}, {"source": "PMC", "id": "pmc12"}]},
            {"pubmed": "5", "pmc": "12"},
        ),
        ({"metadata": {"external_ids": {"pmid": 5.0, "doi": float("nan")}}}, {"pubmed": "5"}),
        ({"openaccessinfo": {"externalids": {"PubMed": "5"}}, "doi": "10.1/x"}, {"pubmed": "5", "doi": "10.1/x"}),
        (
            {"pmcid": "PMC12", "pmid": "nan", "pubmed_id": 5, "metadata": {"pmcid": "PMC9"}},
            {"pmc": "12", "pubmed": "5"},
        ),
        ({"pmcid": "PMC9", "external_ids": {"pmc": "12"}}, {"pmc": "12"}),
        ({"text": "pmid 5", "id": 7, "metadata": None, "external_ids": None}, {}),
        ({}, {}),
    ],
)
def test_ids_are_found_wherever_they_stand(record: dict[str, Any], ids: dict[str, str]) -> None:
    rejects = Rejects()
    assert find_ids(record, "here", rejects) == ids
    assert not rejects.counts


@pytest.mark.parametrize(
    ("held", "reason"),
    [
        ("[broken", "field: external ids missing"),
        (5, "field: external ids missing"),
        ({"pmid": ["5"]}, "field: external id of another type"),
        ({"pmid": 5.5}, "field: external id of another type"),
        ({"pmid": True}, "field: external id of another type"),
        ([5, None, ["a"], {"value": 5}, {"type": "pmid", "value": [1]}], "field: external id of another type"),
    ],
)
def test_ids_of_another_type_are_counted(held: Any, reason: str) -> None:
    rejects = Rejects()
    assert find_ids({"external_ids": held}, "here", rejects) == {}
    assert rejects.counts == {reason: 1}


def test_a_key_is_the_same_with_and_without_separators() -> None:
    assert first_of({"corpus_id": 7}, "corpusid") == 7
    assert first_of({"corpusid": None, "corpusId": 0}, "corpusid", "id") is None
    assert first_of({"id": 3}, "corpusid", "id") == 3


def test_parquet_and_json_lines_with_other_spellings_are_the_same_papers(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"text": "One.", "corpus_id": 1, "license": "CC BY", "external_ids": {"pubmed": "5", "pubmedcentral": 12}},
        {"text": "Two.", "corpus_id": 2, "license": None, "external_ids": {"pubmed": None, "pubmedcentral": None}},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    maps = pa.table(
        {
            "text": ["One.", "Two."], "corpus_id": [1, 2], "license": ["CC BY", None],
            "external_ids": pa.array([[("pubmed", "5"), ("pubmedcentral", "12")], []], pa.map_(pa.string(), pa.string())),
        }
    )  # fmt: skip
    pq.write_table(maps, tmp_path / "maps.parquet")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("rows.parquet", "maps.parquet", "rows.jsonl"):
        found = [(p.paper_id, p.text, p.ids, p.licence) for p in read_papers(tmp_path / name)]
        assert found == [("1", "One.", {"pubmed": "5", "pmc": "12"}, "cc-by"), ("2", "Two.", {}, "")], name


def test_marked_texts_with_other_spellings_are_papers_of_the_api(tmp_path: Path) -> None:
    marked = {"text": "Some words.", "annotations": {"paragraph": [{"start": 0, "end": 11}]}}
    ids = {"external_ids": {"pubmed": 5}}
    (tmp_path / "a.jsonl").write_text(
        json.dumps({"corpus_id": 1, "content": marked, **ids}) + "\n"
        + json.dumps({"corpus_id": "2", "body": marked, "open_access": None, **ids}) + "\n"
    )  # fmt: skip
    papers = list(read_papers(tmp_path / "a.jsonl"))
    assert [(p.paper_id, p.ids, list(p.spans)) for p in papers] == [
        (n, {"pubmed": "5"}, ["paragraph"]) for n in ("1", "2")
    ]
