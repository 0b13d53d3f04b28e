"""A score names what it counts: words or pieces, with synonyms or without."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from nltk.translate.bleu_score import corpus_bleu

from megabiomed.align import text_scores
from megabiomed.align.score_pieces import ScorePieces
from megabiomed.align.text_scores import TextScorer, counted_lines, heading, text_scorer
from megabiomed.evaluate.metrics import summarise
from megabiomed.evaluate.page import write_results_page
from megabiomed.evaluate.results import ResultFolder
from megabiomed.evaluate.table import remarks
from megabiomed.ground.errors import TokenizerError

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "acid", "##ic", "ammon", "##ium", "salt", ".", "of"]
ANSWERS, REFERENCES = ["The acidic ammonium salt."], ["The acid of the ammonium salt."]


@pytest.fixture
def vocab(tmp_path: Path) -> Path:
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    return tmp_path / "vocab.txt"


def without_wordnet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_scores, "installed_wordnet", lambda: None)


def test_pieces_are_those_of_the_tokenizer_file(vocab: Path) -> None:
    pieces = ScorePieces(vocab)
    assert pieces(ANSWERS[0]) == ["the", "acid", "##ic", "ammon", "##ium", "salt", "."]
    assert pieces.name.startswith("WordPiece (uncased) pieces of vocab.txt, sha256 ")
    (vocab.parent / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    cased = ScorePieces(vocab.parent)
    assert cased(ANSWERS[0])[0] == "[UNK]"
    assert "(cased)" in cased.name


def test_bleu_of_pieces_stands_beside_that_of_words(vocab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_wordnet(monkeypatch)
    words, both = TextScorer().scores(ANSWERS, REFERENCES), text_scorer(vocab).scores(ANSWERS, REFERENCES)
    assert {name: both[name] for name in words} == words
    cut = ScorePieces(vocab)
    expected = corpus_bleu([[cut(REFERENCES[0])]], [cut(ANSWERS[0])], weights=(0.5, 0.5))
    assert both["bleu2_pieces"] == pytest.approx(expected)
    assert both["bleu2_pieces"] > both["bleu2"]
    assert both["meteor_pieces"] != both["meteor"]


def test_table_file_and_page_say_what_was_counted(vocab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_wordnet(monkeypatch)
    scorer = text_scorer(vocab)
    rows = [{"id": "a", "generated": ANSWERS[0], "answer": REFERENCES[0], "correct": False, "cut": True}]
    found = summarise(rows, "free", "generate", scorer)
    assert list(found["text"]) == list(found["counted"])
    assert heading("meteor", found["counted"]) == "meteor, no synonyms"
    assert heading("bleu2_pieces", found["counted"]) == "bleu2 (pieces)"
    task = {**found, "notes": [], "left_out": {}, "contexts_cut": 0, "examples_cut": 0, "contaminated_dropped": 0,
            "contamination_checked": "yes", "items": 1, "file": "f", "template": "t", "mode": "generate",
            "shots": 0}  # fmt: skip
    said = "\n".join(remarks(task))
    assert "meteor: words between white space; exact and stem matches, no synonyms: wordnet is missing" in said
    assert "bleu2_pieces, bleu4_pieces: WordPiece (uncased) pieces of vocab.txt" in said
    assert "1 answers reached --max-new-tokens" in said
    results = {"model": "m", "version": "1", "tasks": {"chebi": task}, "perplexity": {}}
    write_results_page(ResultFolder(tmp_path), results)
    assert "pieces of vocab.txt" in (tmp_path / "results.html").read_text()


def test_with_wordnet_synonyms_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wordnet:
        def synsets(self, word: str) -> list[object]:
            return []

    monkeypatch.setattr(text_scores, "installed_wordnet", Wordnet)
    assert "meteor: words between white space; exact, stem and synonym matches" in counted_lines(TextScorer().counted)


@pytest.mark.parametrize("content", [None, "no\npieces\n", b"\xff\xfe"])
def test_what_is_no_tokenizer_is_refused(tmp_path: Path, content: str | bytes | None) -> None:
    if content is not None:
        (tmp_path / "vocab.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(TokenizerError, match="no tokenizer"):
        text_scorer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerError, match="no tokenizer"):
        text_scorer(tmp_path)
