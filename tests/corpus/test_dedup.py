"""One paper is counted once, whatever id its records share; a full text stays rather than its abstract."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megabiomed.corpus import duplicates, entries
from megabiomed.corpus.build import BuildOptions, build_corpus
from megabiomed.corpus.clean import CleanRules
from megabiomed.corpus.dedup import KINDS, key_of, shared_key
from megabiomed.corpus.duplicates import range_jobs, resolve_range
from megabiomed.corpus.entries import EntryWriter, kind_of, place_of, row_of, shard_folder, shard_of
from megabiomed.corpus.records import Paper, Span
from megabiomed.data.store import TokenStore
from megabiomed.ground.errors import DataError

WORDS = "The heart pumps the blood and the kidney filters it; insulin lowers glucose, glucagon raises it. "


def full(number: int, **ids: str | None) -> dict[str, Any]:
    """A full text in the layout of the Datasets API."""
    text = f"Paper {number}. {WORDS * 6}"
    spans = json.dumps([{"start": 0, "end": len(text)}])
    return {"corpusid": number, "externalids": ids, "content": {"text": text, "annotations": {"paragraph": spans}}}


def abstract(number: int, **ids: str | None) -> dict[str, Any]:
    """Title and abstract of 20200705v1's metadata."""
    return {"paper_id": str(number), "title": f"Abstract {number}", "abstract": f"Number {number}. {WORDS * 4}", **ids}


def built(folder: Path, *shards: list[dict[str, Any]]) -> tuple[set[str], dict[str, int]]:
    """Ids of the papers kept, and how many were dropped for each reason."""
    paths = [folder / f"{number}.jsonl" for number in range(len(shards))]
    for path, rows in zip(paths, shards):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rules = CleanRules(min_words=1, require_medical_id=False)
    options = BuildOptions(paths, folder / "c", vocab_size=300, validation_fraction=0, workers=1, rules=rules)
    counts = build_corpus(options)["counts"]
    store = TokenStore.open(folder / "c" / "train")
    dropped = {what.removeprefix("papers: dropped, "): n for what, n in counts.items() if "dropped" in what}
    return {store.paper_id(number) for number in range(store.num_documents)}, dropped


def test_a_full_text_stays_and_its_abstracts_go_whichever_came_first(tmp_path: Path) -> None:
    abstracts = [
        abstract(1, pmc_id="PMC10"),
        abstract(2, pubmed_id="20"),
        abstract(3, doi="10.1000/A"),
        abstract(4, pubmed_id="40"),
        abstract(5),
        abstract(6, pubmed_id="40"),
    ]
    texts = [full(11, pubmedcentral="10"), full(12, pubmed="20"), full(13, doi="https://doi.org/10.1000/a"), full(5)]
    kept, dropped = built(tmp_path, abstracts, texts)
    assert kept == {"11", "12", "13", "5", "4"}
    assert dropped == {
        "an abstract whose id was seen before": 1,
        "an abstract whose pmc was seen before": 1,
        "an abstract whose pubmed was seen before": 2,
        "an abstract whose doi was seen before": 1,
    }


def test_the_abstracts_of_the_datasets_api_are_read_and_matched(tmp_path: Path) -> None:
    ids = {"MAG": "9", "DOI": "10.1000/Q", "PubMedCentral": "10"}
    rows = [
        {"corpusid": n, "openaccessinfo": {"externalids": i}, "abstract": f"{n}. {WORDS * 4}"}
        for n, i in ((1, ids), (2, {}))
    ]
    kept, dropped = built(tmp_path, rows, [full(3, pubmedcentral="10")])
    assert kept == {"2", "3"}
    assert dropped == {"an abstract whose pmc was seen before": 1}


def test_the_first_of_full_texts_that_share_an_id_stays_also_along_a_chain(tmp_path: Path) -> None:
    rows = [
        full(1, pubmedcentral="10"),
        full(2, pubmedcentral="10", pubmed="20"),
        full(3, pubmed="20", doi="10.1000/x"),
    ]
    kept, dropped = built(tmp_path, rows, [full(4, doi="10.1000/x"), full(5, doi="none"), full(6, doi="none")])
    assert kept == {"1", "5", "6"}
    assert dropped == {"pmc seen before": 1, "pubmed seen before": 1, "doi seen before": 1}


@pytest.mark.parametrize(
    ("kind", "value", "other", "same"),
    [
        ("pmc", "0123", "123", True),
        ("doi", "doi:10.1000/AbC", "https://doi.org/10.1000/abc", True),
        ("doi", "10.1000/a", "10.1000/b", False),
        ("pubmed", "1", "2", False),
    ],
)
def test_an_id_is_the_same_however_it_is_written(kind: str, value: str, other: str, same: bool) -> None:
    assert (shared_key(kind, value) == shared_key(kind, other)) == same
    assert shared_key(kind, value) is not None
    assert shared_key("pmc", "7") != shared_key("pubmed", "7")


@pytest.mark.parametrize(
    ("kind", "value"), [("pmc", None), ("pubmed", "n/a"), ("doi", "10.1/x"), ("doi", ""), ("arxiv", "-")]
)
def test_a_placeholder_is_no_id(kind: str, value: str | None) -> None:
    assert shared_key(kind, value) is None


@pytest.mark.parametrize(
    ("text", "spans", "alone"),
    [
        ("Title\n\nAbstract.", {"title": [Span(0, 5)], "abstract": [Span(7, 16)]}, True),
        ("Title\n\nAbstract. More.", {"title": [Span(0, 5)], "abstract": [Span(7, 16)]}, False),
        ("Before. Abstract.", {"abstract": [Span(8, 17)]}, False),
        ("Some text.", {}, False),
    ],
)
def test_a_paper_is_an_abstract_when_nothing_else_is_in_it(
    text: str, spans: dict[str, list[Span]], alone: bool
) -> None:
    assert Paper("1", {}, "", None, text, spans, "a", 1, 0).is_abstract == alone


Document = tuple[tuple[int, int, int], bool]
"""Number of its id, its PMC id (0: none) and its text, and whether it is an abstract."""


@settings(max_examples=60, deadline=None)
@given(
    documents=st.lists(st.tuples(st.tuples(*[st.integers(0, 4)] * 3), st.booleans()), max_size=25),
    shards=st.integers(1, 3),
    jobs=st.integers(1, 7),
)
def test_marked_are_those_that_a_simple_search_finds_whatever_the_jobs(
    documents: list[Document], shards: int, jobs: int
) -> None:
    kinds = ("id", "pmc", "text")
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        clean, marks = Path(folder), Path(folder) / "marks"
        marks.mkdir()
        patch.setattr(entries, "FILE_ENTRIES", 7)
        places = [(number % shards, number // shards) for number in range(len(documents))]
        writers = [EntryWriter(clean, shard) for shard in range(shards)]
        for writer in writers:
            shard_folder(clean, writer.shard).mkdir()
        for (shard, row), (keys, late) in zip(places, documents):
            for kind, key in zip(kinds, keys):
                if key or kind != "pmc":
                    writers[shard].add(row, kind, key_of(kind, str(key)), late)
        for writer in writers:
            writer.flush()
        total = sum(writer.entries for writer in writers)
        patch.setattr(duplicates, "JOB_ENTRIES", max(1, total // jobs))
        found = [np.load(resolve_range(job)) for job in range_jobs(clean, [w.files for w in writers], total, marks)]
    assert {int(place) for part in found for place in part} == searched(documents, places, kinds)


def searched(documents: list[Document], places: list[tuple[int, int]], kinds: tuple[str, ...]) -> set[int]:
    """Every place and kind whose key an earlier document has; abstracts come after all full texts."""
    marked, seen = set(), set()
    order = sorted(range(len(documents)), key=lambda number: (documents[number][1], places[number]))
    for number in order:
        for kind, key in zip(kinds, documents[number][0]):
            if (kind, key) in seen:
                marked.add(place_of(*places[number], KINDS.index(kind), late=False))
            elif key or kind != "pmc":
                seen.add((kind, key))
    return marked


def test_of_papers_connected_in_a_chain_one_always_stays(tmp_path: Path) -> None:
    """An abstract with the text of a full text that has its id: neither is dropped in favour of the other one."""
    text = full(2, pubmed="20")
    short = {"paper_id": "1", "title": "", "abstract": text["content"]["text"], "pubmed_id": "20"}
    kept, dropped = built(tmp_path, [short], [text])
    assert kept == {"2"}
    assert dropped == {"an abstract whose pubmed was seen before": 1}


def test_a_place_has_limits_that_are_named() -> None:
    place = np.array([place_of(5, 9, 6, late=True)], np.uint64)
    assert (shard_of(place)[0], row_of(place)[0], kind_of(place)[0]) == (5, 9, 6)
    with pytest.raises(DataError, match="too many papers"):
        place_of(1 << 24, 0, 0, late=False)
