"""Cleaning: what is marked goes exactly, what is text stays, and every removed character is accounted for."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from megabiomed.corpus.clean import MAX_FRONT_MATTER, CleanRules, clean
from megabiomed.corpus.generate import write_records
from megabiomed.corpus.intervals import merge
from megabiomed.corpus.readers import read_papers
from megabiomed.corpus.records import Paper, Rejects, Span

DATA = Path(__file__).parents[3] / "shared" / "data"
LOOSE = CleanRules(min_words=1)


def paper(text: str, ids: dict[str, str] | None = None, **marks: Any) -> Paper:
    """A paper whose spans are given as the pieces of text they mark."""
    spans = {}
    for kind, pieces in marks.items():
        starts = [(text.index(piece), piece) for piece in ([pieces] if isinstance(pieces, str) else pieces)]
        spans[kind] = [Span(start, start + len(piece)) for start, piece in sorted(starts)]
    return Paper("1", {"pmc": "1"} if ids is None else ids, "", None, text, spans, "a.jsonl", 1, 0)


def cleaned(text: str, rules: CleanRules = LOOSE, **marks: Any) -> str | None:
    return clean(paper(text, **marks), rules, Counter())


@pytest.mark.parametrize(
    ("ids", "kept"), [({}, False), ({"doi": "1"}, False), ({"pmc": "1"}, True), ({"pubmed": "1"}, True)]
)
def test_only_papers_of_pubmed_and_pmc_are_selected(ids, kept):
    counts: Counter[str] = Counter()
    assert (clean(paper("Some text.", ids), LOOSE, counts) is not None) == kept
    assert counts["papers: kept" if kept else "papers: dropped, no PMC or PubMed id"] == 1
    assert clean(paper("Some text.", ids), replace(LOOSE, require_medical_id=False), counts) == "Some text."


@pytest.mark.parametrize(
    ("rule", "kind"),
    [
        ("authors", "author"),
        ("authors", "authoraffiliation"),
        ("authors", "authorlastname"),
        ("bibliography", "bibentry"),
        ("figures", "figure"),
        ("figures", "figurecaption"),
        ("tables", "table"),
        ("citations", "bibref"),
        ("publication", "venue"),
    ],
)
def test_each_rule_removes_its_spans_and_only_when_it_is_on(rule, kind):
    marks = {kind: "DROP ME"}
    assert cleaned("Left DROP ME right.", **marks) == "Left right."
    assert cleaned("Left DROP ME right.", replace(LOOSE, **{rule: False}), **marks) == "Left DROP ME right."


def test_overlapping_spans_are_removed_once_and_counted_once():
    counts: Counter[str] = Counter()
    source = paper("abcdefghij tail", author="abcde", authoraffiliation="defgh", bibentry="hi")
    assert clean(source, LOOSE, counts) == "j tail"
    assert counts["characters: authors"] == 8
    assert counts["characters: bibliography"] == 1


def test_merging_unites_touching_and_nested_intervals():
    assert merge([(5, 9), (0, 2), (2, 3), (6, 7)]) == [(0, 3), (5, 9)]


def test_headers_stand_alone_and_paragraphs_are_apart():
    text = "Title Intro First one. Second one."
    marks = {"title": "Title", "sectionheader": "Intro", "paragraph": ["First one.", "Second one."]}
    assert cleaned(text, **marks) == "Title\n\nIntro\n\nFirst one.\n\nSecond one."


def test_brackets_emptied_by_citations_go_and_others_stay():
    text = "Seen before [1] , often ( A 1999; B 2000 ) . Not f(x) or (n = 3)."
    assert cleaned(text, bibref=["1", "A 1999", "B 2000"]) == "Seen before, often. Not f(x) or (n = 3)."


def test_front_matter_between_title_and_abstract_goes():
    text = "JOURNAL 5\nTitle\nhttp://x.org DOI:10.1/x\nAbstract text."
    marks = {"title": "Title", "abstract": "Abstract text."}
    assert cleaned(text, **marks) == "Title\n\nAbstract text."
    assert "JOURNAL" in (cleaned(text, replace(LOOSE, front_matter=False), **marks) or "")


def test_a_body_without_complete_annotations_is_not_taken_for_front_matter():
    body = "word " * (MAX_FRONT_MATTER // 5 + 1)
    assert "word word" in (cleaned(f"Title {body}. Last.", title="Title", paragraph="Last.") or "")
    assert cleaned("First. Title Last.", title="Title", paragraph=["First.", "Last."]) == "First.\n\nTitle\n\nLast."


def test_a_header_goes_with_all_of_its_text_but_not_before_a_subheader():
    text = "Methods\nPatients\nText.\nReferences\n[1] Work."
    marks = {"sectionheader": ["Methods", "Patients", "References"], "bibentry": "[1] Work.", "paragraph": "Text."}
    assert cleaned(text, **marks) == "Methods\n\nPatients\n\nText."
    assert (cleaned(text, replace(LOOSE, empty_sections=False), **marks) or "").endswith("References")


def test_mail_addresses_go():
    assert cleaned("Write to some.one+x@mail.example.org today, at 5@3.") == "Write to today, at 5@3."


def test_characters_are_composed_and_control_characters_dropped():
    assert cleaned("cafe\u0301 so\u00adft\u200b a\u00a0b\tc\x00d\r\ne\ufffd") == "café soft a b cd\ne"
    assert cleaned("lone \ud800 surrogate") == "lone surrogate"


def test_whitespace_is_collapsed_to_one_blank_line():
    assert cleaned("  a  b \n \n\n\n c\n") == "a b\n\nc"


def test_short_papers_are_dropped_and_counted():
    counts: Counter[str] = Counter()
    assert clean(paper("one two three"), CleanRules(min_words=4), counts) is None
    assert counts["papers: dropped, fewer than 4 words"] == 1
    assert clean(paper("one two three"), CleanRules(min_words=3), counts) == "one two three"


def assert_accounted(counts: Counter[str]) -> None:
    names = ("characters: in", "characters: out", "characters: in papers dropped")
    removed = sum(n for key, n in counts.items() if key.startswith("characters: ") and key not in names)
    # Line breaks put around headers and paragraphs, and NFC, are credited to the whitespace rule or to nobody.
    assert counts[names[0]] - removed <= counts[names[1]] + counts[names[2]]


def test_nothing_marked_survives_in_generated_papers(tmp_path):
    write_records(tmp_path / "a.jsonl.gz", papers=40)
    counts: Counter[str] = Counter()
    for source in read_papers(tmp_path / "a.jsonl.gz"):
        text = clean(source, CleanRules(), counts)
        assert text is not None
        for kind in ("author", "authoraffiliation", "bibentry", "bibref", "table", "figure", "figurecaption"):
            assert source.spans[kind]
            assert all(source.text[span.start : span.end] not in text for span in source.spans[kind])
        assert not any(word in text for word in ("Author", "Institute", "@", "References", "Reference work"))
        assert {"Introduction", "Methods", "Results", "Discussion"} <= set(text.split("\n"))
        assert "  " not in text
        assert " ." not in text
    assert counts["papers: kept"] == 40
    assert_accounted(counts)


@pytest.mark.skipif(not (DATA / "s2orc").is_dir(), reason="../shared/data is absent")
def test_real_papers_lose_their_authors_and_links_and_keep_their_text():
    counts: Counter[str] = Counter()
    for path in sorted((DATA / "s2orc").glob("*.gz")):
        for source in read_papers(path, rejects=Rejects()):
            text = clean(source, CleanRules(), counts)
            if text is None:
                continue
            assert all(source.text[span.start : span.end] not in text for span in source.spans.get("author", []))
            assert text.startswith(" ".join(source.title.split())[:20])
            assert "License:" not in text[:2000]
    assert (counts["papers: kept"], counts["papers: dropped, no PMC or PubMed id"]) == (82, 10)
    cited = counts["characters: unmarked citations"] + counts["characters: brackets and gaps left by citations"]
    assert counts["characters: out"] + cited > 0.98 * counts["characters: in"]
    assert cited < 0.03 * counts["characters: in"]
    assert_accounted(counts)
