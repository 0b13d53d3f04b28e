"""The corpus build: same bytes for any number of workers, held-out papers by id, whole or absent, and its public command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from megabiomed.corpus.build import BuildOptions, build_corpus, held_out
from megabiomed.corpus.cli import corpus_app
from megabiomed.corpus.generate import write_records
from megabiomed.corpus.tokenizer import Tokenizer
from megabiomed.data.store import TokenStore
from megabiomed.errors import DataError, TokenizerError

REAL = sorted((Path(__file__).resolve().parents[3] / "shared" / "data" / "s2orc").glob("*.jsonl.gz"))


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("records") / "records.jsonl.gz"
    write_records(path, 30, 0)
    return path


@pytest.fixture(scope="module")
def built(records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("built") / "corpus"
    build_corpus(BuildOptions([records], output, vocab_size=500, validation_fraction=0.3, workers=1))
    return output


def files(folder: Path) -> dict[str, bytes]:
    stores = [folder / "train", folder / "validation", folder / "tokenizer"]
    return {str(f.relative_to(folder)): f.read_bytes() for store in stores for f in store.iterdir()}


def test_the_number_of_workers_changes_no_byte(records: Path, built: Path, tmp_path: Path) -> None:
    build_corpus(BuildOptions([records], tmp_path / "c", vocab_size=500, validation_fraction=0.3, workers=3))
    assert files(tmp_path / "c") == files(built)


def test_documents_decode_to_papers_with_bos_and_eos(built: Path) -> None:
    store = TokenStore.open(built / "train")
    tokenizer = Tokenizer(store.tokenizer_path)
    first = store.tokens(0, int(store.document_ends[0])).tolist()
    assert (first[0], first[-1]) == (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)
    text = tokenizer.decode(first)
    assert "Institute" not in text  # affiliations were removed
    assert tokenizer.decode(tokenizer.encode("naïve α-synuclein \U0001f9ec")) == "naïve α-synuclein \U0001f9ec"


def test_papers_are_held_out_by_their_id(built: Path) -> None:
    ids = {}
    for split in ("train", "validation"):
        store = TokenStore.open(built / split)
        ids[split] = {store.paper_id(n) for n in range(store.num_documents)}
    assert not ids["train"] & ids["validation"]
    assert ids["validation"]
    assert all(held_out(paper, 0.3) for paper in ids["validation"])


def test_duplicates_are_dropped_and_counted(records: Path, built: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.jsonl.gz"
    copy.write_bytes(records.read_bytes())
    report = build_corpus(BuildOptions([records, copy], tmp_path / "c", vocab_size=500, validation_fraction=0.3))
    assert report["counts"]["papers: dropped, id seen before"] == 30
    assert report["train"]["tokens"] == json.loads((built / "report.json").read_text())["train"]["tokens"]


def test_damaged_lines_are_reported_and_the_rest_is_used(records: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.jsonl"
    damaged.write_text('{"broken": \n{"corpusid": 1, "content": {"text": null}}\n[1]\n')
    report = build_corpus(BuildOptions([damaged, records], tmp_path / "c", vocab_size=500, validation_fraction=0.1))
    assert report["counts"]["papers: kept"] == 30
    assert sum(report["rejects"]["counts"].values()) == 3
    assert any("damaged.jsonl:2" in sample for samples in report["rejects"]["samples"].values() for sample in samples)


def test_nothing_half_built_is_left(records: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("not json\n")
    with pytest.raises(DataError, match="nothing is left to train on"):
        build_corpus(BuildOptions([empty], tmp_path / "c", vocab_size=500))
    with pytest.raises(TokenizerError, match="too small"):
        build_corpus(BuildOptions([records], tmp_path / "c", vocab_size=90_000))
    with pytest.raises(DataError, match="is not there"):
        build_corpus(BuildOptions([tmp_path / "no.jsonl"], tmp_path / "c"))
    with pytest.raises(TokenizerError, match="not a SentencePiece model"):
        build_corpus(BuildOptions([records], tmp_path / "c", tokenizer=empty))
    assert [path.name for path in tmp_path.iterdir()] == ["empty.jsonl"]


def test_an_existing_corpus_is_not_overwritten_unasked(records: Path, tmp_path: Path) -> None:
    options = BuildOptions([records], tmp_path / "c", vocab_size=500)
    build_corpus(options)
    before = files(tmp_path / "c")
    with pytest.raises(DataError, match="--overwrite"):
        build_corpus(options)
    build_corpus(BuildOptions([records], tmp_path / "c", vocab_size=400, overwrite=True))
    assert files(tmp_path / "c") != before


def test_the_command_builds_and_inspects(records: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    arguments = ["build", str(records), "--output", str(tmp_path / "c"), "--vocab-size", "500"]
    shown = runner.invoke(corpus_app, arguments, catch_exceptions=False)
    assert shown.exit_code == 0
    assert "papers: kept" in shown.output
    inspected = runner.invoke(corpus_app, ["inspect", str(tmp_path / "c"), "--json"], catch_exceptions=False)
    assert json.loads(inspected.output)["vocab_size"] == 500


@pytest.mark.skipif(not REAL, reason="the real papers are not here")
def test_real_papers_become_a_store(tmp_path: Path) -> None:
    report = build_corpus(BuildOptions(REAL, tmp_path / "c", vocab_size=4000, validation_fraction=0.1))
    assert report["counts"]["papers: kept"] == 82
    assert report["counts"]["papers: dropped, no PMC or PubMed id"] == 10
    assert report["train"]["tokens"] + report["validation"]["tokens"] > 400_000
