"""peS2o's filter keeps papers and abstracts of English words, and drops and counts what it names."""

from __future__ import annotations

import codecs
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from megabiomed.corpus.clean import CleanRules, clean
from megabiomed.corpus.cli import corpus_app
from megabiomed.corpus.pes2o import paragraphs, why_not_pes2o
from megabiomed.corpus.readers import read_papers
from megabiomed.corpus.records import Rejects

pytest.importorskip("wordsegment")
SENTENCE = "The heart pumps blood through the body while both kidneys filter about half of it every single day."
PARAGRAPH = " ".join([SENTENCE] * 6)
PAPER = "\n\n".join([PARAGRAPH] * 5)
RARE = "Zqxv wkjq qzzk xxvq vkkq. " * 20


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PAPER, ""),
        ("\n\n".join([PAPER, RARE]), ""),  # five paragraphs are left
        (" ".join(PAPER.split()[:499]), "peS2o, fewer than 500 words in a full text"),
        (PAPER * 93, "peS2o, more than 49999 words in a full text"),
        (PAPER.replace("both", "the"), "peS2o, most frequent word of a full text"),  # every ninth word
        ("7 7 " * 20 + PAPER, "peS2o, most frequent word of a full text"),
        (PAPER.replace("\n\n", " "), "peS2o, fewer than 5 paragraphs"),
        ("\n\n".join([PARAGRAPH] * 4 + [RARE]), "peS2o, fewer than 5 paragraphs above the log probability"),
    ],
)
def test_full_texts(text: str, reason: str) -> None:
    assert why_not_pes2o(text, text.split(), is_abstract=False) == reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PARAGRAPH, ""),
        ("a " * 20 + PARAGRAPH, ""),
        (PARAGRAPH.replace("both", "the"), ""),  # no bound on the share
        (SENTENCE, "peS2o, fewer than 50 words in an abstract"),
        (PARAGRAPH * 10, "peS2o, more than 1000 words in an abstract"),
        ("1 " * 20 + PARAGRAPH, "peS2o, most frequent word of an abstract"),
        ("a " * 60, "peS2o, most frequent word of an abstract"),
        (RARE + PARAGRAPH[:99], "peS2o, log probability of an abstract"),
    ],
)
def test_abstracts(text: str, reason: str) -> None:
    assert why_not_pes2o(text, text.split(), is_abstract=True) == reason


def test_a_header_and_a_broken_line_belong_to_the_next_line() -> None:
    text = "Title\n\nMethods\n\nWe measured\nmice.\n\nResults\n\nThey slept!\n\nReferences"
    assert list(paragraphs(text)) == ["Title Methods We measured mice.", "Results They slept!", "References"]


def test_of_real_papers_most_pass_and_none_whose_words_are_no_words() -> None:
    source = Path(__file__).parents[3] / "shared" / "data" / "s2orc" / "s2orc-00.jsonl.gz"
    if not source.is_file():
        pytest.skip("no real papers here")
    off = CleanRules(require_medical_id=False)
    texts = [clean(paper, off, Counter()) or "" for paper in read_papers(source, rejects=Rejects())]
    reasons = [why_not_pes2o(text, text.split(), is_abstract=False) for text in texts]
    assert reasons.count("") > 0.8 * len(texts)
    passed = [codecs.encode(text, "rot13") for text, reason in zip(texts, reasons, strict=True) if not reason]
    assert not [text for text in passed if not why_not_pes2o(text, text.split(), is_abstract=False)]


def build(source: Path, output: Path, workers: int) -> dict[str, Any]:
    words = ["build", str(source), "--output", str(output), "--all-papers", "--vocab-size", "300"]
    words += ["--rule", "pes2o_quality=on", "--workers", str(workers)]
    CliRunner().invoke(corpus_app, words, catch_exceptions=False)
    report: dict[str, Any] = json.loads((output / "report.json").read_text())
    return report


def test_a_build_counts_each_reason_whatever_the_number_of_workers(tmp_path: Path) -> None:
    texts = [f"{PAPER} Number {number}." for number in range(20)] + [RARE, PAPER.replace("\n\n", " ")]
    source = tmp_path / "a.jsonl"
    source.write_text("".join(json.dumps({"id": str(n), "text": text}) + "\n" for n, text in enumerate(texts)))
    one, two = (build(source, tmp_path / str(workers) / "corpus", workers) for workers in (1, 2))
    assert one["counts"] == two["counts"]
    assert one["counts"]["papers: dropped, peS2o, fewer than 500 words in a full text"] == 1
    assert one["counts"]["papers: dropped, peS2o, fewer than 5 paragraphs"] == 1
    assert one["counts"]["papers: kept"] == 20
    sheets = [(tmp_path / folder / "corpus" / "datasheet.md").read_bytes() for folder in "12"]
    assert sheets[0] == sheets[1]
    assert b"peS2o, fewer than 5 paragraphs" in sheets[0]
    assert b"| pes2o_quality | True |" in sheets[0]
