"""Clean a paper for language-model training: what BioMedGPT's recipe removes, one small rule at a time.

The published recipe keeps papers with a PMC or PubMed id and removes author information, citations, bibliography,
figures and tables. Rules that use spans run on the published text, where the spans are true; rules that rewrite
characters run on what is left.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from megabiomed.corpus.back_matter import KINDS as BACK_MATTER
from megabiomed.corpus.citations import citation_markers
from megabiomed.corpus.records import Paper, Span
from megabiomed.corpus.select import SelectRules, why_dropped, why_dropped_unread
from megabiomed.corpus.unpack import UnpackLimits

Interval = tuple[int, int]

_REMOVABLE = {
    "authors": ("author", "authorfirstname", "authorlastname", "authoraffiliation"),
    "bibliography": ("bibentry", "bibauthor", "bibauthorfirstname", "bibauthorlastname", "bibtitle", "bibvenue"),
    "figures": ("figure", "figurecaption"),
    "tables": ("table",),
    "publication": ("publisher", "venue"),
    "formulas": ("formula",),
    "mentions": ("figureref", "tableref"),
    "back_matter": BACK_MATTER,
}
"""Rule -> the annotations that it removes: those of S2ORC, and those of back matter."""
_BODY = ("abstract", "sectionheader", "paragraph")
MAX_FRONT_MATTER = 5000
"""Characters; see `front_matter`."""

# The repeats are bounded by RFC 5321 (64 characters before the @, 63 in a part of the domain): without bounds a line of
# a million letters without an address would be searched once from each of them.
_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
_URL = re.compile(r"(?:\b[a-z]{2,10}://|\bwww\.)[^\s<>\"]*[^\s<>\".,;:!?)\]]", re.IGNORECASE)
_EMPTY_BRACKETS = re.compile(r"\([\s,;&–-]*\)|\[[\s,;&–-]*\]")
_SPACE_BEFORE_POINT = re.compile(r"(?<=\S) +(?=[.,;](?:\s|$))")
# What str.splitlines and editors take for line ends. One of them in a document would split it in a file of lines.
_LINE_END_CHARACTERS = "\r\v\f\x85\u2028\u2029"
_LINE_ENDS = re.compile(f"\r\n|[{_LINE_END_CHARACTERS}]")
# Control, format (soft hyphen, zero width), surrogate, private use (what is left of a PDF's symbol fonts), unassigned.
_DROPPED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})


@dataclass(frozen=True)
class CleanRules(SelectRules, UnpackLimits):
    """Which rules run: limits of packed files, rules that select papers, and rules that remove text, named after it."""

    authors: bool = True
    """Remove names and affiliations."""
    bibliography: bool = True
    figures: bool = True
    """Remove figures and their captions."""
    tables: bool = True
    citations: bool = True
    """Remove citation markers such as "[3]", and brackets that this leaves empty."""
    publication: bool = True
    """Remove names of publisher and venue."""
    front_matter: bool = True
    """Remove what surrounds the title before the abstract or first section: links, dates, licence lines."""
    empty_sections: bool = True
    """Remove a header when everything below it was removed, such as "References"."""
    emails: bool = True
    urls: bool = False
    """Remove web addresses, as MEDITRON does."""
    formulas: bool = False
    """Remove displayed formulas, as GROBID spells them."""
    back_matter: bool = True
    """Remove acknowledgements, contributions, conflicts of interest and funding where the markup tells them."""
    mentions: bool = False
    """Remove mentions of figures and tables in the text."""
    mark_citations: bool = False
    """Replace a citation by title and author of the cited work, as MEDITRON does, where both are known."""


def clean(paper: Paper, rules: CleanRules, counts: Counter[str]) -> str | None:
    """Return the training text of a paper, or None when a rule drops it.

    Header lines stand alone; paragraphs are separated by blank lines; the text is NFC and ends without a newline.

    Args:
        counts: gains `papers: ...` (kept, or dropped by reason) and `characters: ...` (in, removed by rule, out).
    """
    if reason := why_dropped_unread(paper, rules):
        counts[f"papers: dropped, {reason}"] += 1
        return None
    counts["characters: in"] += len(paper.text)
    markers = citation_markers(paper) if rules.mark_citations else {}
    text = cut(paper, *intervals_to_remove(paper, rules, counts, markers))
    text = remove_emails(text, counts) if rules.emails else text
    text = remove_urls(text, counts) if rules.urls else text
    text = normalise_characters(text, counts)
    # Brackets are empty only once citations and invisible characters are gone; all of these leave gaps, so gaps are last.
    text = remove_empty_brackets(text, counts) if rules.citations else text
    text = collapse_whitespace(text, counts)
    if reason := why_dropped(text, rules):
        counts[f"papers: dropped, {reason}"] += 1
        counts["characters: in papers dropped"] += len(text)
        return None
    counts["papers: kept"] += 1
    counts["characters: out"] += len(text)
    return text


def intervals_to_remove(
    paper: Paper, rules: CleanRules, counts: Counter[str], markers: Mapping[int, tuple[int, str]]
) -> tuple[list[Interval], dict[int, str]]:
    """Merge the spans of all active rules. Each rule is credited with the characters that no earlier one took.

    Args:
        markers: of `citation_markers`.

    Returns:
        the intervals, and by their place the markers of those citations that no other rule has removed.
    """
    removed: list[Interval] = []

    def take(name: str, more: Iterable[Interval]) -> None:
        nonlocal removed
        before, removed = _covered(removed), merge([*removed, *more])
        counts[f"characters: {name}"] += _covered(removed) - before

    for name, kinds in _REMOVABLE.items():
        if getattr(rules, name):
            take(name, ((span.start, span.end) for kind in kinds for span in paper.spans.get(kind, [])))
    if rules.front_matter:
        take("front matter", front_matter(paper))
    # A citation inside a caption or a table went with it: a marker would be all that is left of the sentence around it.
    marked = {start: text for start, (end, text) in markers.items() if not _meets(removed, start, end)}
    if rules.mark_citations:
        counts["citations: marked"] += len(marked)
        take("citations", ((start, markers[start][0]) for start in marked))
    if rules.citations:
        take("citations", ((span.start, span.end) for span in paper.spans.get("bibref", [])))
    if rules.empty_sections:  # last, because it asks what the others have left
        take("empty sections", empty_sections(paper, removed))
    return removed, marked


def merge(intervals: Iterable[Interval]) -> list[Interval]:
    """Unite overlapping and touching intervals; sorted by start."""
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def front_matter(paper: Paper) -> list[Interval]:
    """The text before the title, and between the title and the first abstract, header or paragraph.

    Nothing is taken when the body begins before the title. A gap longer than MAX_FRONT_MATTER stays: it is text whose
    annotations are missing.
    """
    titles = paper.spans.get("title")
    if not titles:
        return []
    title = titles[0]
    # Without any annotation of the body nobody knows where it begins: 0 lies before the title, so nothing is taken.
    body = min((span.start for kind in _BODY for span in paper.spans.get(kind, [])), default=0)
    if body < title.end:
        return []
    return [gap for gap in ((0, title.start), (title.end, body)) if 0 < gap[1] - gap[0] <= MAX_FRONT_MATTER]


def empty_sections(paper: Paper, removed: list[Interval]) -> list[Interval]:
    """Headers below which, up to the next header or the end, text was removed and nothing is left."""
    headers = paper.spans.get("sectionheader", [])
    ends = [*(header.start for header in headers[1:]), len(paper.text)]
    return [
        (header.start, header.end)
        for header, end in zip(headers, ends)
        if paper.text[header.end : end].strip() and not _remaining(paper.text, header.end, end, removed).strip()
    ]


def cut(paper: Paper, removed: list[Interval], inserted: Mapping[int, str]) -> str:
    """Leave out merged intervals, break the line around titles, headers and paragraphs, and insert texts at places."""
    breaks = _breaks(paper.spans)
    # Between two neighbouring edges everything is removed or nothing, so one pass over the edges builds the text.
    edges = sorted({0, len(paper.text), *breaks, *inserted, *(edge for interval in removed for edge in interval)})
    starts, ends = {start for start, _ in removed}, {end for _, end in removed}
    pieces, inside = [], False
    for start, end in pairwise(edges):
        # Edges that neither open nor close an interval (breaks, inserted texts) leave things as they are.
        inside = start in starts or (inside and start not in ends)
        pieces.append(breaks.get(start, ""))
        pieces.append(inserted.get(start, ""))
        if not inside:
            pieces.append(paper.text[start:end])
    return "".join(pieces)


def remove_emails(text: str, counts: Counter[str]) -> str:
    """Remove e-mail addresses, which also stand outside of author spans."""
    return _credit(text, _in_lines_with(("@",), _EMAIL, text), "emails", counts)


def remove_urls(text: str, counts: Counter[str]) -> str:
    """Remove web addresses."""
    return _credit(text, _in_lines_with(("://", "www."), _URL, text), "urls", counts)


def normalise_characters(text: str, counts: Counter[str]) -> str:
    """Unicode NFC; one kind of line end; no control, format (soft hyphen, zero width), surrogate or unassigned ones."""
    if any(end in text for end in _LINE_END_CHARACTERS):
        text = _LINE_ENDS.sub("\n", text)
    kept = text
    # A paper has a few hundred different characters and a hundred thousand places: look at each character once.
    for character in set(text) - {"\n", "\t"}:
        if _is_unwanted(character):
            kept = kept.replace(character, "")
    return unicodedata.normalize("NFC", _credit(text, kept, "control characters", counts))


def remove_empty_brackets(text: str, counts: Counter[str]) -> str:
    """Remove "( ; )" and "[, ]" that lost their citations, and the space this leaves before a full stop."""
    pieces, start = [], 0
    for bracket in _EMPTY_BRACKETS.finditer(text):
        # The space before it goes too: a full stop may follow.
        space = bracket.start() > start and text[bracket.start() - 1] == " "
        pieces.append(text[start : bracket.start() - space])
        start = bracket.end()
    kept = _in_lines_with((" .", " ,", " ;"), _SPACE_BEFORE_POINT, "".join([*pieces, text[start:]]))
    return _credit(text, kept, "brackets and gaps left by citations", counts)


def _in_lines_with(marks: Sequence[str], pattern: re.Pattern[str], text: str) -> str:
    """Remove what a pattern matches within lines. Only lines that contain a mark are searched: the search is what costs."""
    if not any(mark in text for mark in marks):
        return text
    lines = text.split("\n")
    return "\n".join([pattern.sub("", line) if any(mark in line for mark in marks) else line for line in lines])


def collapse_whitespace(text: str, counts: Counter[str]) -> str:
    """One space within a line, no space at its ends, at most one blank line."""
    lines = (" ".join(line.split()) for line in text.split("\n"))
    return _credit(text, re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip(), "whitespace", counts)


def _is_unwanted(character: str) -> bool:
    # U+FFFD: what an earlier program could not decode.
    return unicodedata.category(character) in _DROPPED_CATEGORIES or character == "\ufffd"


def _credit(before: str, after: str, name: str, counts: Counter[str]) -> str:
    counts[f"characters: {name}"] += len(before) - len(after)
    return after


def _covered(intervals: list[Interval]) -> int:
    return sum(end - start for start, end in intervals)


def _meets(intervals: list[Interval], start: int, end: int) -> bool:
    """Whether one of merged intervals meets [start, end)."""
    # The first interval that ends after `start`.
    place = bisect_right(intervals, start, key=lambda interval: interval[1])
    return place < len(intervals) and intervals[place][0] < end


def _remaining(text: str, start: int, end: int, removed: list[Interval]) -> str:
    pieces = []
    for low, high in removed:
        if high <= start or low >= end:
            continue
        pieces.append(text[start : max(start, low)])
        start = high
    return "".join([*pieces, text[start:end]])


def _breaks(spans: dict[str, list[Span]]) -> dict[int, str]:
    breaks: dict[int, str] = {}
    for kind in ("title", *_BODY):
        for span in spans.get(kind, []):
            breaks[span.start] = breaks[span.end] = "\n\n"
    return breaks
