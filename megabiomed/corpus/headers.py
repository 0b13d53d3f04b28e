"""Headers without a section, and pieces that hold a program's word for "nothing" where their text should be."""

from __future__ import annotations

import re

from megabiomed.corpus.intervals import Interval, meets, merge, remaining
from megabiomed.corpus.records import Paper

_NOTHING = frozenset(
    {
        "nan", "null", "none", "n/a", "na", "undefined", "[]", "{}", "[object object]", "<na>", "-",
        "no abstract", "no abstract available", "abstract not available", "abstract not provided", "not available",
    }
)  # fmt: skip
MAX_HEADER = 80
_MARKED = ("title", "abstract", "sectionheader", "paragraph")
_NUMBER = re.compile(r"\s*(\d{1,2}(?:\.\d{1,2}){0,4})\.?\s")


def is_placeholder(text: str) -> bool:
    """Whether a title, abstract or paragraph is a program's word for "there is none", such as pandas' "nan"."""
    return " ".join(text.lower().split()).strip(" .") in _NOTHING


def placeholders(paper: Paper) -> list[Interval]:
    """Titles, abstracts, headers and paragraphs that are nothing but such a word."""
    spans = (span for kind in _MARKED for span in paper.spans.get(kind, []))
    return [(span.start, span.end) for span in spans if is_placeholder(paper.text[span.start : span.end])]


def empty_sections(paper: Paper, removed: list[Interval]) -> list[Interval]:
    """Headers below which, up to the next header or the end, text was removed and nothing is left."""
    headers = paper.spans.get("sectionheader", [])
    ends = [*(header.start for header in headers[1:]), len(paper.text)]
    return [
        (header.start, header.end)
        for header, end in zip(headers, ends)
        if paper.text[header.end : end].strip() and not remaining(paper.text, header.end, end, removed).strip()
    ]


def lone_headers(paper: Paper, removed: list[Interval]) -> list[Interval]:
    """Headers that nothing follows but the end of the paper, or a header whose number is of the same or a higher level.

    "Methods" before "Patients" stays: without numbers nobody knows that it is not the section in which the other one stands.
    """
    lone: list[Interval] = []
    headers = paper.spans.get("sectionheader", [])
    ends = [*(header.start for header in headers[1:]), len(paper.text)]
    following, end = "", len(paper.text)
    for header, own_end in zip(reversed(headers), reversed(ends)):
        if meets(removed, header.start, header.end):
            continue
        title = paper.text[header.start : header.end]
        # What is longer is a paragraph that was taken for a header; a section that was emptied is another rule's.
        empty = len(title) <= MAX_HEADER and not paper.text[header.end : own_end].strip()
        empty = empty and not remaining(paper.text, header.end, end, merge([*removed, *lone])).strip()
        if empty and (not following or _is_sibling(title, following)):
            lone.append((header.start, header.end))
        else:
            following, end = title, header.start
    return lone


def _is_sibling(header: str, following: str) -> bool:
    one, other = _NUMBER.match(header), _NUMBER.match(following)
    return one is not None and other is not None and other[1].count(".") <= one[1].count(".")
