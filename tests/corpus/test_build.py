"""The corpus build: same bytes for any number of workers, held-out papers by id, whole or absent, and its public command."""

from __future__ import annotations

import gzip
import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from megabiomed.corpus import duplicates, entries, shards
from megabiomed.corpus.build import BuildOptions, build_corpus
from megabiomed.corpus.clean import CleanRules
from megabiomed.corpus.cli import corpus_app
from megabiomed.corpus.dedup import held_out
from megabiomed.corpus.generate import write_records
from megabiomed.data import store_parts
from megabiomed.data.store import TokenStore
from megabiomed.ground.errors import DataError, FileError, TokenizerError
from megabiomed.ground.files import sha256_file
from megabiomed.tokenizer.files import open_tokenizer

REAL = sorted((Path(__file__).resolve().parents[3] / "shared" / "data" / "s2orc").glob("*.jsonl.gz"))


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("records") / "records.jsonl.gz"
    write_records(path, 30, 0)
    return path


def write_lines(path: Path, *values: object) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


@pytest.fixture(scope="module")
def built(records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("built") / "corpus"
    build_corpus(BuildOptions([records], output, vocab_size=500, validation_fraction=0.3, workers=1))
    return output


def files(folder: Path) -> dict[str, bytes]:
    stores = [folder / "train", folder / "validation", folder / "tokenizer"]
    return {str(f.relative_to(folder)): f.read_bytes() for store in stores for f in store.iterdir()}


def test_halves_of_surrogate_pairs_anywhere_in_a_record_stop_no_build(tmp_path: Path) -> None:
    text, long = "Insulin lowers glucose in the blood. " * 20, "\ud835\udc65 is a letter of mathematics. " * 20
    content = {"text": text, "annotations": {"bib\ud800": "[{", "title": '[{"start": 0, "end": 7, "x": "\\ud800"}]'}}
    fields = [{"category": "Med\ud800icine"}]
    rows = [
        {"corpusid": 1, "externalids": {"PubMedCentral": "PM\ud800"}, "content": content, "s2fieldsofstudy": fields},
        {"id": "a\udfff", "title": "T\ud800", "text": long, "externalids": {"PubMedCentral": "1"}},
        {"paper_id": "2", "metadata": {"title": "T\udc00", "abstract": text, "pmc_id": "PMC2"}, "grobid_parse": {}},
    ]
    source = write_lines(tmp_path / "a.jsonl", *rows)
    rules = CleanRules(min_words=5)
    options = BuildOptions([source], tmp_path / "c", vocab_size=300, validation_fraction=0, workers=1, rules=rules)
    report = build_corpus(replace(options, exact_dedup=False))
    assert report["counts"]["papers: kept"] == 3
    assert report["rejects"]["counts"]["field: lone surrogates replaced"] == 3
    assert "bib\ufffd" in (tmp_path / "c" / "rejects.jsonl").read_text(encoding="utf-8")
    provenance = (tmp_path / "c" / "train" / "documents.jsonl").read_text(encoding="utf-8")
    assert all(held in provenance for held in ("Med\ufffdicine", "PM\ufffd", "a\ufffd"))
    store = TokenStore.open(tmp_path / "c" / "train")
    tokenizer = open_tokenizer(tmp_path / "c" / "tokenizer" / "tokenizer.model")
    assert "\U0001d465 is a letter" in tokenizer.decode([int(i) for i in store.tokens(*store.document_bounds(1))])


@pytest.mark.timeout(120)
def test_neither_the_number_of_workers_nor_that_of_jobs_changes_a_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = [tmp_path / f"{n}.jsonl.gz" for n in range(3)]
    for n, path in enumerate(inputs):
        write_records(path, 50, n)
    inputs += [shutil.copy(inputs[1], tmp_path / "again.jsonl.gz")]
    options = BuildOptions(inputs, tmp_path / "c1", vocab_size=500, validation_fraction=0.1, workers=1, near_dedup=True)
    report = build_corpus(options)
    assert report["train"]["documents"] > 30
    assert report["counts"]["papers: dropped, id seen before"] == 150
    build_corpus(replace(options, output=tmp_path / "c2", workers=2))
    # As in a corpus of 200 million papers: many jobs in each step, and several files of entries from each source.
    for module, limit, value in (
        (entries, "FILE_ENTRIES", 100),
        (duplicates, "JOB_ENTRIES", 200),
        (store_parts, "JOB_BYTES", 10_000),
    ):
        monkeypatch.setattr(module, limit, value)
    small = build_corpus(replace(options, output=tmp_path / "small", tokenizer=tmp_path / "c1" / "tokenizer"))
    assert small["counts"] == report["counts"]
    assert files(tmp_path / "c1") == files(tmp_path / "c2") == files(tmp_path / "small")


def test_neither_the_order_of_the_files_nor_of_the_papers_moves_a_paper_to_the_other_split(
    records: Path, built: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in gzip.decompress(records.read_bytes()).splitlines()]
    shards = [write_lines(tmp_path / f"{n}.jsonl", *rows[n::2][::-1]) for n in (1, 0)]
    report = build_corpus(BuildOptions(shards, tmp_path / "c", vocab_size=500, validation_fraction=0.3))
    for split in ("train", "validation"):
        assert paper_ids(tmp_path / "c" / split) == paper_ids(built / split)
        sources = TokenStore.open(tmp_path / "c" / split).manifest["sources"]
        assert [source["file"] for source in sources] == ["1.jsonl", "0.jsonl"]
        assert sum(source["documents"] for source in sources) == report[split]["documents"]
        assert sources[0]["sha256"] == sha256_file(tmp_path / "1.jsonl")


def test_no_author_reference_or_caption_reaches_the_tokens(built: Path) -> None:
    for split in ("train", "validation"):
        store = TokenStore.open(built / split)
        text = open_tokenizer(store.tokenizer_path).decode(store.tokens(0, store.num_tokens).tolist())
        for marked in ("Author One", "Institute", "@example.org", "Reference work", "Tabulated:", "Drawn:", "[1]"):
            assert marked not in text
        assert "Introduction" in text
        assert "g/mol" in text


def test_documents_decode_to_papers_with_bos_and_eos(built: Path) -> None:
    store = TokenStore.open(built / "train")
    tokenizer = open_tokenizer(store.tokenizer_path)
    first = store.tokens(0, int(store.document_ends[0])).tolist()
    assert (first[0], first[-1]) == (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)
    text = tokenizer.decode(first)
    assert "Institute" not in text  # affiliations were removed
    assert tokenizer.decode(tokenizer.encode("naïve α-synuclein \U0001f9ec")) == "naïve α-synuclein \U0001f9ec"


def paper_ids(store: Path) -> set[str]:
    opened = TokenStore.open(store)
    return {opened.paper_id(n) for n in range(opened.num_documents)}


def test_papers_are_held_out_by_their_id(built: Path) -> None:
    ids = {split: paper_ids(built / split) for split in ("train", "validation")}
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
    rejected = [json.loads(line) for line in (tmp_path / "c" / "rejects.jsonl").read_text().splitlines()]
    assert {row["reason"]: row["count"] for row in rejected} == report["rejects"]["counts"]
    assert any("damaged.jsonl:2" in sample for samples in report["rejects"]["samples"].values() for sample in samples)


class Killed(BaseException):
    pass


def test_a_killed_build_goes_on_and_makes_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from megabiomed.corpus import build, build_tokens

    inputs = [tmp_path / f"{n}.jsonl.gz" for n in range(3)]
    for n, path in enumerate(inputs):
        write_records(path, 20, n)
    whole = BuildOptions(inputs, tmp_path / "whole", vocab_size=500, validation_fraction=0.2, workers=1)
    build_corpus(whole)
    done: list[str] = []

    def stop_after(allowed: int, original: Callable[..., Any]) -> Callable[..., Any]:
        def step(job: Any) -> Any:
            if len(done) >= allowed:
                raise Killed
            done.append(repr(job))
            return original(job)

        return step

    resumed = replace(whole, output=tmp_path / "resumed")
    for module, name in ((build, "clean_shard"), (build_tokens, "tokenize_part")):
        done.clear()
        with monkeypatch.context() as patch:
            patch.setattr(module, name, stop_after(1, getattr(module, name)))
            with pytest.raises(Killed):
                build_corpus(resumed)
        assert (tmp_path / ".resumed.building").is_dir()
        assert not resumed.output.exists()
    with monkeypatch.context() as patch:
        patch.setattr(shards, "read_papers", lambda *_: pytest.fail("a finished shard was read again"))
        build_corpus(resumed)
    assert files(tmp_path / "whole") == files(tmp_path / "resumed")
    assert not (tmp_path / ".resumed.building").exists()


def test_a_full_disk_is_an_error_that_leaves_nothing_half_written_and_resumes(tmp_path: Path) -> None:
    """A real limit on the size of files: the write of the tokens fails, after the cleaning is done."""
    write_records(tmp_path / "r.jsonl.gz", 40, 0)
    line = [sys.executable, "-m", "megabiomed.cli", "corpus", "build", "r.jsonl.gz", "--output", "c", "--workers", "1",
            "--vocab-size", "500"]  # fmt: skip
    limit = (tmp_path / "r.jsonl.gz").stat().st_size // 2  # below the cleaned text of the shard

    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    failed = subprocess.run(line, cwd=tmp_path, preexec_fn=full, capture_output=True, text=True, timeout=100)
    assert failed.returncode == 1
    assert (
        "cannot be written: got File too large; make room there (bytes, files, or your quota) and run the same"
        in failed.stderr
    )
    assert not (tmp_path / "c").exists()
    assert (tmp_path / ".c.building").is_dir()
    subprocess.run(line, cwd=tmp_path, check=True, capture_output=True, timeout=100)
    assert TokenStore.open(tmp_path / "c" / "train").num_documents > 20
    assert {path.name for path in tmp_path.iterdir()} == {"r.jsonl.gz", "c"}


def test_the_same_text_under_another_id_is_dropped_once(records: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in gzip.decompress(records.read_bytes()).splitlines()]
    copies = [{**row, "corpusid": 10**9 + n, "externalids": {"pubmed": str(n)}} for n, row in enumerate(rows[:4])]
    shard = write_lines(tmp_path / "copies.jsonl", *copies)
    report = build_corpus(BuildOptions([records, shard], tmp_path / "c", vocab_size=500, workers=1))
    assert report["counts"]["papers: dropped, text seen before"] == 4
    assert report["counts"]["papers: kept"] == 30


def test_nothing_half_built_is_left(records: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("not json\n")
    with pytest.raises(DataError, match="nothing is left to train on"):
        build_corpus(BuildOptions([empty], tmp_path / "c", vocab_size=500))
    with pytest.raises(TokenizerError, match="too small"):
        build_corpus(BuildOptions([records], tmp_path / "c", vocab_size=90_000))
    with pytest.raises(DataError, match="does not exist"):
        build_corpus(BuildOptions([tmp_path / "no.jsonl"], tmp_path / "c"))
    with pytest.raises(TokenizerError, match="not a SentencePiece model"):
        build_corpus(BuildOptions([records], tmp_path / "c", tokenizer=empty))
    assert {path.name for path in tmp_path.iterdir()} == {"empty.jsonl", "c.rejects.jsonl"}


def test_an_existing_corpus_is_not_overwritten_unasked(records: Path, tmp_path: Path) -> None:
    options = BuildOptions([records], tmp_path / "c", vocab_size=500)
    build_corpus(options)
    before = files(tmp_path / "c")
    with pytest.raises(DataError, match="--overwrite"):
        build_corpus(options)
    build_corpus(BuildOptions([records], tmp_path / "c", vocab_size=400, overwrite=True))
    assert files(tmp_path / "c") != before
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_overwrite_spares_a_folder_that_is_no_corpus(records: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="is not a corpus"):
        build_corpus(BuildOptions([records], tmp_path / "home", vocab_size=500, overwrite=True))
    assert (tmp_path / "home" / "thesis.txt").read_text() == "years of work"


def test_a_failed_overwrite_leaves_the_old_corpus(records: Path, tmp_path: Path) -> None:
    build_corpus(BuildOptions([records], tmp_path / "c", vocab_size=500))
    before = files(tmp_path / "c")
    with pytest.raises(TokenizerError, match="too small"):
        build_corpus(BuildOptions([records], tmp_path / "c", vocab_size=90_000, overwrite=True))
    assert files(tmp_path / "c") == before


def test_an_empty_result_names_what_dropped_the_papers(tmp_path: Path) -> None:
    content = {"text": "word " * 100, "annotations": {}}
    papers = [{"corpusid": n, "externalids": {"doi": "10.1/x"}, "content": content} for n in range(2)]
    path = write_lines(tmp_path / "a.jsonl", *papers, {"corpusid": 9})
    with pytest.raises(DataError, match=r"2 x papers: dropped, no PMC or PubMed id, 1 x record: no content"):
        build_corpus(BuildOptions([path], tmp_path / "c", vocab_size=500))


def test_inputs_that_cannot_be_right_are_refused_before_any_work(records: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "other").mkdir()
    namesake = tmp_path / "other" / records.name
    namesake.write_bytes(records.read_bytes())
    for inputs, fraction, problem in (
        ([tmp_path / "empty.jsonl"], 0.1, "is empty"),
        ([records, namesake], 0.1, "same file name"),
        ([records], 1.0, "out of range"),
        ([], 0.1, "no input files"),
    ):
        with pytest.raises(DataError, match=problem):
            build_corpus(BuildOptions(inputs, tmp_path / "c", validation_fraction=fraction))


def test_each_2020_shard_is_joined_with_its_own_parses(records: Path, built: Path, tmp_path: Path) -> None:
    (tmp_path / "pdf_parses").mkdir()
    shards = []
    for n in (0, 1):
        metadata = {"paper_id": str(n), "title": f"Title {n}", "pubmed_id": f"1{n}", "has_pdf_parse": True}
        shards.append(write_lines(tmp_path / f"metadata_{n}.jsonl", metadata))
        body = [{"section": "S", "text": "The heart pumps blood. " * 20, "cite_spans": [], "ref_spans": []}]
        write_lines(tmp_path / f"pdf_parses/pdf_parses_{n}.jsonl", {"paper_id": str(n), "body_text": body})
    report = build_corpus(
        BuildOptions(
            shards,
            tmp_path / "c",
            pdf_parses=tmp_path / "pdf_parses",
            validation_fraction=0.0,
            tokenizer=built / "tokenizer" / "tokenizer.model",
        )
    )
    assert report["rejects"]["counts"] == {}
    sources = TokenStore.open(tmp_path / "c" / "train").manifest["sources"]
    assert {source["file"]: source["documents"] for source in sources} == {
        "metadata_0.jsonl": 0,
        "metadata_1.jsonl": 0,
        "pdf_parses_0.jsonl": 1,
        "pdf_parses_1.jsonl": 1,
    }


def test_the_command_builds_and_inspects(records: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    arguments = ["build", str(records), "--output", str(tmp_path / "c"), "--vocab-size", "500"]
    shown = runner.invoke(corpus_app, arguments, catch_exceptions=False)
    assert shown.exit_code == 0
    assert "papers: kept" in shown.output
    inspected = runner.invoke(corpus_app, ["inspect", str(tmp_path / "c"), "--json"], catch_exceptions=False)
    assert json.loads(inspected.output)["vocab_size"] == 500
    (tmp_path / "c" / "report.json").write_text("{")
    with pytest.raises(FileError, match=r"report.json is damaged"):
        runner.invoke(corpus_app, ["inspect", str(tmp_path / "c")], catch_exceptions=False)


def test_the_command_says_that_no_paper_was_held_out(records: Path, tmp_path: Path) -> None:
    arguments = ["build", str(records), "--output", str(tmp_path / "c"), "--vocab-size", "500"]
    shown = CliRunner().invoke(corpus_app, [*arguments, "--validation-fraction", "0"], catch_exceptions=False)
    assert "no paper was held out" in shown.output


@pytest.mark.skipif(not REAL, reason="the real papers are not here")
def test_real_papers_become_a_store(tmp_path: Path) -> None:
    report = build_corpus(BuildOptions(REAL, tmp_path / "c", vocab_size=4000, validation_fraction=0.1))
    assert report["counts"]["papers: kept"] == 82
    assert report["counts"]["papers: dropped, no PMC or PubMed id"] == 10
    assert report["train"]["tokens"] + report["validation"]["tokens"] > 400_000
