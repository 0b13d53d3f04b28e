"""Shipped layouts are recognised by their keys; a layout of one's own is read when it is named, in every worker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megabiomed.corpus.build import BuildOptions, build_corpus
from megabiomed.corpus.layouts import LAYOUTS, nearest, recognise
from megabiomed.corpus.readers import read_papers
from megabiomed.corpus.readers_lines import Record
from megabiomed.ground.errors import ConfigError, DataError

OWN = """
from megabiomed.corpus.layouts import Layout
from megabiomed.corpus.records import Paper


def read(record, rejects):
    pmc, body = record.value["pmc"], record.value["body"]
    return Paper(pmc, {"pmc": pmc}, "", None, body, {}, record.path.name, record.line, record.offset)


BODIES = Layout(read)
NOT_A_LAYOUT = read
"""


@pytest.fixture
def bodies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of records in a layout of one's own; the module `bodies` is importable, in workers too."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "bodies.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "code"), prepend=":")
    file = tmp_path / "bodies.jsonl"
    texts = [f"Paper {n} says that sample {n * n} binds receptor {n + 7}. " * 12 for n in range(40)]
    file.write_text("".join(json.dumps({"pmc": str(n), "body": text}) + "\n" for n, text in enumerate(texts)))
    return file


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ({"corpusid": 1, "text": ""}, "s2orc"),
        ({"corpusid": 1, "body": {}}, "s2orc_v2"),
        ({"body": {}, "bibliography": {}}, "s2orc_v2"),
        ({"paper_id": "1", "metadata": {}, "grobid_parse": None}, "s2orc_2019"),
        ({"paper_id": "1", "pdf_parse": {}}, "doc2json"),
        ({"paper_id": "1", "jats_parse": {}}, "doc2json"),
        ({"paper_id": "1", "metadata": {}, "body_text": []}, "cord19"),
        ({"paper_id": "1", "abstract": [], "body_text": []}, "s2orc_2020"),
        ({"paper_id": "1", "title": ""}, "s2orc_2020"),
        ({"documents": []}, "bioc"),
        ({"id": "5", "passages": []}, "bioc"),
        ({"<article>": None}, "jats"),
        ({"<PubmedArticle>": None}, "medline"),
        ({"text": ""}, "text"),
    ],
)
def test_a_record_is_recognised_by_its_keys(value: dict[str, Any], name: str) -> None:
    assert recognise(Record(value, Path("x"), 1, 0)) is LAYOUTS.find(name)


def test_a_record_with_other_keys_is_of_no_layout() -> None:
    assert recognise(Record({"body": ""}, Path("x"), 1, 0)) is None


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (["Contents", "x"], "s2orc, which has content"),
        (["corpus_id", "Body"], "s2orc_v2, which has body and corpusid"),
        (["grobidParse"], "s2orc_2019, which has grobid_parse"),
        (["zzz", 7, "y" * 100_000], "none; layouts are s2orc"),
        ([], "none; layouts are"),
    ],
)
def test_the_nearest_layout_is_named_by_what_it_has(keys: list[Any], says: str) -> None:
    assert nearest(keys).startswith(says)


def test_a_build_that_keeps_nothing_says_what_it_saw_and_keeps_its_rejects(tmp_path: Path) -> None:
    file = tmp_path / "odd.jsonl"
    file.write_text('{"contents": {}, "no": 1}\n' * 3)
    with pytest.raises(DataError, match=r"3 x record: unknown layout .*keys contents, no; nearest layout: s2orc"):
        build_corpus(BuildOptions([file], tmp_path / "out", vocab_size=300))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["odd.jsonl", "out.rejects.jsonl"]
    rows = [json.loads(line) for line in (tmp_path / "out.rejects.jsonl").read_text().splitlines()]
    assert [(row["count"], f"odd.jsonl:{n}:" in row["sample"]) for n, row in enumerate(rows, 1)] == [(3, True)] * 3


def test_parses_are_joined_by_the_one_layout_that_keeps_them_apart() -> None:
    assert [name for name in LAYOUTS.names() if LAYOUTS.find(name).join] == ["s2orc_2020"]


def test_a_layout_of_ones_own_is_read_in_the_workers_of_a_build(bodies: Path, tmp_path: Path) -> None:
    options = BuildOptions([bodies], tmp_path / "out", "bodies:BODIES", vocab_size=300, workers=2)
    report = build_corpus(options)
    assert report["counts"]["papers: read"] == 40


def test_a_wrong_name_is_refused_before_anything_is_built(bodies: Path, tmp_path: Path) -> None:
    for name, says in [("bodies:NONE", "cannot be imported"), ("bodies:NOT_A_LAYOUT", "is not a corpus layout")]:
        with pytest.raises(ConfigError, match=says):
            build_corpus(BuildOptions([bodies], tmp_path / "out", name))
    with pytest.raises(DataError, match="keeps no parses apart"):
        read_papers(bodies, "bodies:BODIES", pdf_parses=bodies)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bodies.jsonl", "code"]
