"""Quality filters of published corpora drop what they name, and a paper's text passes."""

from __future__ import annotations

from collections import Counter

import pytest

from megabiomed.corpus.clean import CleanRules, clean
from megabiomed.corpus.quality import why_not_fineweb, why_not_gopher
from megabiomed.corpus.records import Paper

GOOD = "Mice sleep with the other mice that have slept.\nThey wake to the sound of rain, and some of them run."


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (GOOD, ""),
        ("", "gopher, no words"),
        ("a b of the " * 20, "gopher, mean word length"),
        ("the sounds of mouse families # # #", "gopher, symbols"),
        ("• the sounding\n• of the mouse\n- and additional noises", "gopher, bullets"),
        # One ellipsis to ten words, and one line of two.
        ("the sound of mice runs on the field and over the hills...\nthey sleep and more",
         "gopher, lines that end with an ellipsis"),
        ("the sound of 1000 2000 3000 4000", "gopher, words without a letter"),
        ("Mäuse schlafen nachts nie lange", "gopher, stop words"),
    ],
)  # fmt: skip
def test_gopher(text, reason):
    assert why_not_gopher(text, text.split()) == reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (GOOD, ""),
        ("no point\n" * 9, "fineweb, lines that end with punctuation"),
        (f"{GOOD}\na.\nb.\nc.\nd.\ne.", "fineweb, short lines"),
        (
            "Methylenediaminetetraacetic acid.\nPhosphoribosyltransferase ABC.\nRibonucleoproteins, polymerases.",
            "fineweb, lists",
        ),
        (f"{GOOD}\n{GOOD}", "fineweb, repeated lines"),
    ],
)
def test_fineweb(text, reason):
    assert why_not_fineweb(text) == reason


@pytest.mark.parametrize(
    ("rule", "reason"),
    [("gopher_quality", "gopher, stop words"), ("fineweb_quality", "fineweb, lines that end with punctuation")],
)
def test_a_drop_is_counted_under_its_filter(rule, reason):
    counts: Counter[str] = Counter()
    paper = Paper("1", {"pmc": "1"}, "", None, "Mäuse schlafen nachts nie lange", {}, "a", 1, 0)
    assert clean(paper, CleanRules(min_words=1), counts) is not None
    assert clean(paper, CleanRules(min_words=1, **{rule: True}), counts) is None
    assert counts[f"papers: dropped, {reason}"] == 1
