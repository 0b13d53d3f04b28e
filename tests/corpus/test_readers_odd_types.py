"""Any value of a record of any layout may be of another type: at most that record is lost, and it is counted once."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from megabiomed.corpus.layouts import LAYOUTS, recognise
from megabiomed.corpus.readers_lines import Record
from megabiomed.corpus.records import Rejects

ODD = (None, True, 0, -1, 1.5, "", " ", "x", [], [None], [[]], ["x"], {}, {"x": []}, {"start": 0, "end": 1})
SPAN = '[{"start": 0, "end": 4, "attributes": {"id": "b0", "ref_id": "b0"}}]'
PARAGRAPH = {
    "section": "Methods", "text": "Some [1] words.", "cite_spans": [{"start": 5, "end": 8, "ref_id": "B0"}], "ref_spans": []
}  # fmt: skip
WORKS = {"B0": {"title": "On running", "authors": [{"first": "P", "last": "Nurmi"}]}}
PARSE = {"abstract": [PARAGRAPH], "body_text": [PARAGRAPH], "bib_entries": WORKS, "back_matter": [PARAGRAPH]}
MARKED = {"text": "Some words.", "annotations": {"title": SPAN, "paragraph": SPAN, "bibref": SPAN, "bib_entry": SPAN}}
SAMPLES: dict[str, dict[str, Any]] = {
    "s2orc": {"corpusid": 1, "externalids": {"pubmed": "1"}, "content": {**MARKED, "source": {"oainfo": {"license": "CCBY"}}}},
    "s2orc_v2": {
        "corpusid": 1, "title": "On sleep", "openaccessinfo": {"externalids": {"PubMed": "1"}, "license": "CCBY"},
        "body": MARKED, "bibliography": MARKED,
    },
    "s2orc_2019": {"paper_id": "1", "metadata": {"title": "On sleep", "year": 2011, "pmc_id": "PMC1"}, "grobid_parse": PARSE},
    "s2orc_2020": {"paper_id": "1", "title": "On sleep", "abstract": "Short.", "pmc_id": "PMC1"},
    "doc2json": {"paper_id": "PMC1", "title": "On sleep", "identifiers": {"doi": "10.1/x"}, "pdf_parse": PARSE},
    "cord19": {"paper_id": "PMC1", "metadata": {"title": "On sleep", "identifiers": {"doi": "10.1/x"}}, **PARSE},
    "bioc": {
        "id": "5", "infons": {"license": "CC0"},
        "passages": [
            {"infons": {"section_type": "TITLE", "type": "front", "article-id_pmid": "5", "year": "2011"}, "text": "On sleep"},
            {"infons": {"section_type": "INTRO", "type": "paragraph"}, "sentences": [{"text": "We slept."}]},
        ],
    },
    "text": {
        "text": "Some words.", "id": "a", "title": "On sleep", "external_ids": {"pubmed": "1"}, "license": "cc0",
        "metadata": {"year": 2011, "identifiers": [{"type": "doi", "value": "10.1/x"}]},
    },
}  # fmt: skip


def changed(value: Any) -> Iterator[Any]:
    """Copies of a value in each of which one part, however deep, is of another type, or one key is missing."""
    yield from ODD
    keys: list[Any] = (
        list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    )
    for key in keys:
        for part in changed(value[key]):
            copied = copy.copy(value)
            copied[key] = part
            yield copied
        if isinstance(value, dict):
            yield {name: part for name, part in value.items() if name != key}
    if isinstance(value, str) and value.startswith("[{"):
        yield from map(json.dumps, changed(json.loads(value)))


@pytest.mark.parametrize("name", SAMPLES)
def test_an_odd_value_costs_at_most_its_record(name: str) -> None:
    layout = LAYOUTS.find(name)
    whole = Record(SAMPLES[name], Path("a.jsonl"), 1, 0)
    rejects = Rejects()
    assert recognise(whole) is layout
    assert layout.read(whole, rejects) is not None
    assert not rejects.counts
    for value in changed(SAMPLES[name]):
        if isinstance(value, dict):
            rejects = Rejects()
            paper = layout.read(Record(value, Path("a.jsonl"), 1, 0), rejects)
            assert rejects.records == (paper is None), value
