"""Citation markers that say what is cited, as MEDITRON writes them (Chen et al. 2023, arXiv 2311.16079, appendix B.2).

"[7]" becomes "[bib_ref] Title of the cited work, Lastname [/bib_ref]": the title's first words and the first author.
"""

from __future__ import annotations

from megabiomed.corpus.readers_spans import first_inside
from megabiomed.corpus.records import Paper, Span

OPEN, CLOSE = "[bib_ref]", "[/bib_ref]"
TITLE_WORDS = 12
_BRACKETS = {"(": ")", "[": "]"}


def citation_markers(paper: Paper) -> dict[int, tuple[int, str]]:
    """The citations whose title and author are known: where one begins to where it ends, and what stands for it.

    Brackets right around a citation are taken as a part of it.
    """
    works = _cited_works(paper)
    markers = {}
    for span in paper.spans.get("bibref", []):
        title, author = works.get(str(span.attributes.get("ref_id")), ("", ""))
        if title and author:
            words = title.split()
            shown = " ".join(words[:TITLE_WORDS]) + ("..." if len(words) > TITLE_WORDS else "")
            start, end = _with_brackets(paper.text, span)
            markers[start] = (end, f" {OPEN} {shown}, {author} {CLOSE} ")
    return markers


def _cited_works(paper: Paper) -> dict[str, tuple[str, str]]:
    """Reference id to (title, first author's last name), either empty where it is not marked."""
    works = dict(paper.references)
    titles, names = paper.spans.get("bibtitle", []), paper.spans.get("bibauthorlastname", [])
    for entry in paper.spans.get("bibentry", []):
        if (name := entry.attributes.get("id")) is not None:
            works.setdefault(
                str(name), (first_inside(paper.text, titles, entry), first_inside(paper.text, names, entry))
            )
    return works


def _with_brackets(text: str, span: Span) -> tuple[int, int]:
    # The span is often the number alone; left in place, the brackets would enclose the marker's own brackets.
    opened = text[span.start - 1 : span.start]
    if opened in _BRACKETS and text[span.end : span.end + 1] == _BRACKETS[opened]:
        return span.start - 1, span.end + 1
    return span.start, span.end
