"""Back matter that no markup tells goes by its header or its phrases; text of the paper that looks like it stays."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from megabiomed.corpus.back_matter_text import MAX_SECTION
from megabiomed.corpus.clean import CleanRules, clean
from megabiomed.corpus.headers import is_placeholder
from megabiomed.corpus.records import Paper, Span

LOOSE = CleanRules(min_words=1)
BODY = "Mice sleep. We slept too."


def cleaned(text: str, rules: CleanRules = LOOSE, counts: Counter[str] | None = None, **marks: list[str]) -> str | None:
    spans = {
        kind: [Span(text.index(piece), text.index(piece) + len(piece)) for piece in pieces]
        for kind, pieces in marks.items()
    }
    return clean(
        Paper("1", {"pmc": "1"}, "", None, text, spans, "a", 1, 0), rules, Counter() if counts is None else counts
    )


@pytest.mark.parametrize(
    "header",
    ["Acknowledgements", "ACKNOWLEDGMENTS", "5. Funding", "Conflict of interest", "Authors’ contributions",
     "Competing Interests:", "Declaration of interests", "Financial disclosure"],
)  # fmt: skip
def test_sections_go_by_their_header(header):
    text = f"Results\n{BODY}\n{header}\nAnybody.\nSomebody.\nDiscussion\nIt is so."
    marks = {"sectionheader": ["Results", header, "Discussion"]}
    counts: Counter[str] = Counter()
    assert cleaned(text, counts=counts, **marks) == f"Results\n\n{BODY}\n\nDiscussion\n\nIt is so."
    assert counts["characters: back_matter_headers"] >= len(header)
    assert "Anybody" in (cleaned(text, replace(LOOSE, back_matter_headers=False), **marks) or "")
    # Without marked headers, the paragraph below the line goes.
    assert cleaned(f"{BODY}\n\n{header}\n\nAnybody.\n\nIt is so.") == f"{BODY}\n\nIt is so."


def test_a_section_of_back_matter_that_is_too_long_keeps_its_text():
    text = f"Funding\n{'It is so. ' * (MAX_SECTION // 10 + 1)}"
    assert (cleaned(text, sectionheader=["Funding"]) or "").startswith("It is so.")


@pytest.mark.parametrize(
    "paragraph",
    [
        "We thank Jane Roe for her help.",
        "We would like to thank all patients.",
        "The authors wish to thank Jane Roe.",
        "The authors are grateful to Jane Roe.",
        "This work was partially supported by grant 5.",
        "This study was funded by a grant. We thank all.",
        "Author contributions: JR wrote it.",
        "JR and JD conceived and wrote the manuscript.",
        "All authors read and approved the final manuscript.",
        "The authors declare that they have no competing interests.",
        "The authors have no conflict of interest to declare.",
        "No potential conflict of interest was reported by the author(s).",
        "Dr. Roe reports she was an officer. Other authors report no conflict of interest.",
        "Conflicts of Interest: None.",
        "ACKNOWLEDGMENTS We thank Jane Roe.",
    ],
)
def test_paragraphs_and_sentences_go_by_their_phrases(paragraph):
    kept = cleaned(f"{BODY}\n\n{paragraph}") or ""
    assert kept.startswith(BODY)
    assert "interest" not in kept
    assert "thank" not in kept
    assert cleaned(f"{BODY}\n\n{paragraph}", replace(LOOSE, back_matter_phrases=False)) == f"{BODY}\n\n{paragraph}"


def test_a_declaration_in_a_paragraph_goes_alone():
    text = "Mice sleep. The authors declare no conflict of interest. Staff slept as well."
    assert cleaned(text) == "Mice sleep. Staff slept as well."


@pytest.mark.parametrize(
    "text",
    [
        "Conflicts of interest in trials of sleep\n\nMice sleep.",
        "We think that mice sleep. The study was supported by the finding that they do.",
        "Support for this view comes from mice. Funding of trials has conflicts of interest of its own.",
        "This work supports the view that mice sleep. Authors contributed differently to both studies.",
        "The contribution of sleep is unknown. We acknowledge that mice differ. All authors agree on that.",
        "Conflicting results were found. Interests of both groups differ; public interest is no conflict.",
    ],
)
def test_text_of_the_paper_stays(text):
    assert cleaned(text) == text


def test_headers_that_nothing_follows_go_and_those_above_a_subsection_stay():
    text = "Methods\nMice\nThey slept.\n3 Results\n4 Discussion\nIt is so.\nAppendix"
    marks = {"sectionheader": ["Methods", "Mice", "3 Results", "4 Discussion", "Appendix"]}
    assert cleaned(text, **marks) == "Methods\n\nMice\n\nThey slept.\n\n4 Discussion\n\nIt is so."
    assert (cleaned(text, replace(LOOSE, lone_headers=False), **marks) or "").endswith("Appendix")


def test_words_for_nothing_are_no_abstract():
    marks = {"title": ["Sleep"], "abstract": ["nan"], "paragraph": [BODY]}
    assert cleaned(f"Sleep\nnan\n{BODY}", **marks) == f"Sleep\n\n{BODY}"
    assert "nan" in (cleaned(f"Sleep\nnan\n{BODY}", replace(LOOSE, placeholders=False), **marks) or "")
    assert cleaned(f"Sleep\nnan\n{BODY}", replace(LOOSE, require_abstract=True), **marks) is None
    assert is_placeholder(" No abstract available. ")
    assert not is_placeholder("Nan Madol")
