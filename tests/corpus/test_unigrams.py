"""Log probabilities are those of the counts; a missing or damaged list of counts is an error that says what to do."""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from megabiomed.corpus.cli import corpus_app
from megabiomed.corpus.unigrams import mean_log_probability, need_unigrams, table_of, unigrams, words_of
from megabiomed.ground.errors import ConfigError, DataError


def test_a_word_has_the_share_of_its_count_and_any_other_one_that_of_a_rare_word() -> None:
    table = table_of(["the\t13\n", "of\t2\n", "mice\t1\n"])
    assert table["the"] == math.log2(13 / 16)
    assert table["mice"] == -4
    assert table["gollgo"] == table["7"] == table[","] == pytest.approx(math.log2((math.sqrt(3) + 1) / 16))
    assert mean_log_probability(["mice", "of", "mice", "of"], table) == -3.5
    assert mean_log_probability([], table) == table.unknown


def test_marks_are_words_and_numbers_are_whole() -> None:
    text = "IL-6 rose (p<0.05) to 1,234 \u00b5g in Ca2+; We don't."
    assert " ".join(words_of(text)) == "il - 6 rose ( p < 0.05 ) to 1,234 \u00b5g in ca2 + ; we don ' t ."


def test_the_counts_are_those_that_pes2o_names() -> None:
    pytest.importorskip("wordsegment")
    table = unigrams()
    assert len(table) > 333_000
    assert all(word.isascii() and word.isalpha() for word in table)
    assert table["the"] == pytest.approx(math.log2(23135851162 / 588e9), abs=0.01)
    # 20 bits: far from both the rarest counted word and an unknown one, and from a common one.
    assert table.unknown == pytest.approx(-29.9, abs=0.1)
    assert table.unknown < min(table.values()) < -25 < table["mice"] < table["the"]


def test_a_build_with_the_rule_and_without_the_counts_ends_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "wordsegment", None)  # as if it were not installed
    source = tmp_path / "a.jsonl"
    source.write_text("no JSON\n")
    words = ["build", str(source), "--output", str(tmp_path / "c"), "--rule", "pes2o_quality=on"]
    error = CliRunner().invoke(corpus_app, words).exception
    assert isinstance(error, ConfigError)
    assert "corpus build --rule pes2o_quality=on needs wordsegment" in str(error)
    assert 'pip install "megabiomed[corpus-quality]"' in str(error)
    assert sorted(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("content", ["", "the 7\n", "the\tseven\n", "the\t-7\n"])
def test_damaged_counts_are_named(content: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "wordsegment"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('no code of the package runs')\n")
    (package / "unigrams.txt").write_text(content)
    monkeypatch.delitem(sys.modules, "wordsegment", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    assert need_unigrams() == package / "unigrams.txt"
    with pytest.raises(DataError, match="is damaged"):
        unigrams.__wrapped__()
