"""Every selection rule keeps and drops what its name says, is set from the command line, and counts what it dropped."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from megabiomed.corpus.clean import CleanRules, clean
from megabiomed.corpus.cli import corpus_app
from megabiomed.corpus.records import Paper, Span
from megabiomed.corpus.select import SelectRules, parse_rules
from megabiomed.ground.errors import DataError

OFF = CleanRules(require_medical_id=False, min_words=0)
ENGLISH = "The heart pumps the blood through the body and the kidney filters it every day of the year. " * 5
GERMAN = "Das Herz pumpt das Blut durch den K\u00f6rper und die Niere filtert es an jedem Tag des Jahres. " * 5
GOOD = Paper(
    "1",
    {"pmc": "1"},
    "Title",
    1999,
    ENGLISH,
    {"abstract": [Span(0, len(ENGLISH))], "paragraph": [Span(10, 90)]},
    "a",
    1,
    0,
    licence="cc-by",
)

CASES: list[tuple[str, Any, dict[str, Any], str]] = [
    ("require_medical_id", True, {"ids": {"doi": "10.1/x"}}, "no PMC or PubMed id"),
    ("require_title", True, {"title": " "}, "no title"),
    ("require_abstract", True, {"spans": {}}, "no abstract"),
    ("min_year", 1970, {"year": 1969}, "before 1970"),
    ("min_paragraphs", 1, {"spans": {"abstract": [Span(0, 9)]}}, "fewer than 1 paragraphs"),
    ("min_words", 50, {"text": "The heart pumps."}, "fewer than 50 words"),
    ("max_words", 100, {"text": ENGLISH * 2}, "more than 100 words"),
    ("licence", "CC BY,cc0", {"licence": "cc-by-nc"}, "licence cc-by-nc"),
    ("licence", "cc0, cc-by", {"licence": "elsevier user licence"}, "licence other"),
    ("licence", "cc-by", {"licence": ""}, "licence unknown"),
    ("language", "en", {"text": GERMAN}, "language de"),
    ("max_word_share", 0.3, {"text": "7 7 7 " + ENGLISH[:40]}, "one word is more than 0.3 of all, or is no word"),
    ("gopher_quality", True, {"text": GERMAN}, "gopher, stop words"),
    ("pes2o_quality", True, {"text": "Xqzt " * 60}, "peS2o, log probability of an abstract"),
    ("fineweb_quality", True, {"text": ENGLISH.replace(".", "")}, "fineweb, lines that end with punctuation"),
]


@pytest.mark.parametrize(("rule", "value", "change", "reason"), CASES, ids=[case[0] for case in CASES])
def test_a_rule_drops_and_counts_what_it_names_and_nothing_when_off(
    rule: str, value: Any, change: dict[str, Any], reason: str
) -> None:
    if rule == "pes2o_quality":
        pytest.importorskip("wordsegment")
    on = replace(OFF, **{rule: value})
    bad, counts = replace(GOOD, **change), Counter[str]()
    assert clean(GOOD, on, counts) is not None
    assert clean(bad, OFF, Counter()) is not None
    assert clean(bad, on, counts) is None
    assert counts[f"papers: dropped, {reason}"] == 1
    assert counts["papers: kept"] == 1


def test_every_selection_rule_is_tried() -> None:
    assert {field.name for field in fields(SelectRules)} == {case[0] for case in CASES}


def test_a_paper_of_which_nothing_is_left_has_no_most_frequent_word() -> None:
    assert clean(replace(GOOD, text="\u200b", spans={}), replace(OFF, max_word_share=0.5), Counter()) == ""


def test_papers_without_a_year_are_not_dropped_for_it() -> None:
    assert clean(replace(GOOD, year=None), replace(OFF, min_year=1970), Counter()) is not None


@pytest.mark.parametrize(
    ("rule", "text", "marks", "left"),
    [
        ("urls", "See https://a.org/x?y=1, www.b.de/c. and (http://d.com).", {}, "See,. and."),
        ("formulas", "Energy E = mc2 is known.", {"formula": [Span(7, 14)]}, "Energy is known."),
        ("mentions", "Grows (Figure 2) and falls.", {"figureref": [Span(7, 15)]}, "Grows and falls."),
    ],
)
def test_further_cleaning_rules_are_off_and_credited_when_on(rule: str, text: str, marks: Any, left: str) -> None:
    paper, counts = replace(GOOD, text=text, spans=marks), Counter[str]()
    assert clean(paper, OFF, Counter()) == text
    assert clean(paper, replace(OFF, **{rule: True}), counts) == left
    assert counts[f"characters: {rule}"] > 0


def test_rules_are_read_from_texts_and_wrong_ones_are_named() -> None:
    rules = parse_rules(CleanRules, ["figures=off", "urls=on", "min_words=7", "max_word_share=0.2", "language=en"])
    assert (rules.figures, rules.urls, rules.min_words, rules.max_word_share, rules.language) == (
        False,
        True,
        7,
        0.2,
        "en",
    )
    for wrong, message in (
        ("figure=off", "no rule 'figure'"),
        ("urls=maybe", "on or off"),
        ("min_words=x", "whole number"),
        ("min_words=-1", "zero or more"),
        *((f"max_word_share={value}", "finite number") for value in ("nan", "inf", "-0.1", "")),
    ):
        with pytest.raises(DataError, match=message):
            parse_rules(CleanRules, [wrong])


def test_the_command_takes_rules_and_reports_them(tmp_path: Path) -> None:
    def record(number: int, text: str) -> str:
        licence = ("CC BY", "CC0", "CC BY-NC", None)[number % 4]
        return json.dumps({"id": str(number), "text": f"{text} Number {number}.", "license": licence})

    rows = [record(number, ENGLISH) for number in range(30)] + [record(100, GERMAN)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows) + "\n")
    arguments = ["build", str(tmp_path / "a.jsonl"), "--output", str(tmp_path / "c"), "--all-papers", "--workers", "1"]
    settings = ["--vocab-size", "300", "--rule", "language=en", "--rule", "min_words=20", "--rule", "licence=cc-by,cc0"]
    CliRunner().invoke(corpus_app, [*arguments, *settings], catch_exceptions=False)
    report = json.loads((tmp_path / "c" / "report.json").read_text())
    assert report["counts"]["papers: dropped, language de"] == 1
    assert report["counts"]["papers: dropped, licence cc-by-nc"] == 7
    assert report["counts"]["papers: dropped, licence unknown"] == 7
    assert report["counts"]["papers: kept"] == 16
    kept = Counter(report["train"]["licences"]) + Counter(report["validation"]["licences"])
    assert kept == {"cc-by": 8, "cc0": 8}
    assert report["rules"]["language"] == "en"
