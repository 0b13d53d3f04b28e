"""Clean a paper for language-model training: what BioMedGPT's recipe removes, one small rule at a time.

The published recipe keeps papers with a PMC or PubMed id and removes author information, citations, bibliography,
figures and tables. Rules that use spans run on the published text, where the spans are true; rules that rewrite
characters run on what is left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from megabiomed.corpus.back_matter import KINDS as BACK_MATTER
from megabiomed.corpus.back_matter_text import BackMatterRules, back_matter_sections, remove_back_matter
from megabiomed.corpus.citation_brackets import citation_core, remove_marks
from megabiomed.corpus.citation_marks import MARK, mark_unmarked
from megabiomed.corpus.citations import citation_markers
from megabiomed.corpus.clean_text import collapse_whitespace, normalise_characters, remove_emails, remove_urls
from megabiomed.corpus.headers import empty_sections, lone_headers, placeholders
from megabiomed.corpus.intervals import Interval, covered, meets, merge
from megabiomed.corpus.records import Paper, Span
from megabiomed.corpus.select import SelectRules, why_dropped, why_dropped_unread
from megabiomed.corpus.unpack import UnpackLimits

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


@dataclass(frozen=True)
class CleanRules(SelectRules, UnpackLimits, BackMatterRules):
    """Which rules run: limits of packed files, rules that select papers, and rules that remove text, named after it."""

    authors: bool = True
    """Remove names and affiliations."""
    bibliography: bool = True
    figures: bool = True
    """Remove figures and their captions."""
    tables: bool = True
    citations: bool = True
    """Remove marked citations such as "[3]", and brackets that hold nothing else; those that are nouns of a sentence stay."""
    unmarked_citations: bool = True
    """Remove citations that no span marks: "[12]", "(Roe et al., 2010)"."""
    publication: bool = True
    """Remove names of publisher and venue."""
    front_matter: bool = True
    """Remove what surrounds the title before the abstract or first section: links, dates, licence lines."""
    empty_sections: bool = True
    """Remove a header when everything below it was removed, such as "References"."""
    lone_headers: bool = True
    """Remove a header that nothing follows."""
    placeholders: bool = True
    """Remove titles, abstracts and paragraphs that are nothing but "nan", "null" or the like."""
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
    if not paper.spans and counts["papers: kept"]:
        # No rule that uses spans has anything to do, and an earlier paper has put their names into the account.
        unmarked = paper.text.replace(MARK, "\ufffd")
    else:
        markers = citation_markers(paper) if rules.mark_citations else {}
        unmarked = cut(paper, *intervals_to_remove(paper, rules, counts, markers))
    text = rewritten(unmarked, rules, counts)
    if reason := why_dropped(text, rules, rules.pes2o_quality and paper.is_abstract):
        counts[f"papers: dropped, {reason}"] += 1
        counts["characters: in papers dropped"] += len(text)
        return None
    counts["papers: kept"] += 1
    counts["characters: out"] += len(text)
    return text


def rewritten(text: str, rules: CleanRules, counts: Counter[str]) -> str:
    """Apply the rules that rewrite text."""
    text = remove_emails(text, counts) if rules.emails else text
    text = remove_urls(text, counts) if rules.urls else text
    # Marks are no characters of a text and would be dropped as such, so brackets come before characters.
    text = mark_unmarked(text, counts) if rules.unmarked_citations else text
    text = remove_marks(text, counts) if rules.citations or rules.unmarked_citations else text
    text = remove_back_matter(text, rules, counts)
    # All of these leave gaps, so gaps are last.
    return collapse_whitespace(normalise_characters(text, counts), counts)


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
    held = 0

    def take(name: str, more: Iterable[Interval]) -> None:
        nonlocal removed, held
        before = held
        if found := list(more):  # most rules find nothing in most papers
            removed = merge([*removed, *found])
            held = covered(removed)
        counts[f"characters: {name}"] += held - before

    for name, kinds in _REMOVABLE.items():
        if getattr(rules, name):
            take(name, ((span.start, span.end) for kind in kinds for span in paper.spans.get(kind, [])))
    if rules.front_matter:
        take("front matter", front_matter(paper))
    # A citation inside a caption or a table went with it: a marker would be all that is left of the sentence around it.
    marked = {start: text for start, (end, text) in markers.items() if not meets(removed, start, end)}
    if rules.mark_citations:
        counts["citations: marked"] += len(marked)
        take("citations", ((start, markers[start][0]) for start in marked))
    if rules.citations:
        cores = [citation_core(paper.text, span) for span in paper.spans.get("bibref", [])]
        cores = [(start, end) for start, end in cores if start < end and not meets(removed, start, end)]
        marked |= {start: MARK for start, _ in cores}
        counts["citations: removed"] += len(cores)
        take("citations", cores)
    if rules.back_matter_headers:
        take("back_matter_headers", back_matter_sections(paper))
    if rules.placeholders:
        take("placeholders", placeholders(paper))
    if rules.empty_sections:  # after all others, because it asks what they have left
        take("empty sections", empty_sections(paper, removed))
    if rules.lone_headers:
        take("lone headers", lone_headers(paper, removed))
    return removed, marked


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


def cut(paper: Paper, removed: list[Interval], inserted: Mapping[int, str]) -> str:
    """Leave out merged intervals, break the line around titles, headers and paragraphs, and insert texts at places."""
    breaks = _breaks(paper.spans)
    # Between two neighbouring edges everything is removed or nothing, so one pass over the edges builds the text.
    edges = sorted({0, len(paper.text), *breaks, *inserted, *(edge for interval in removed for edge in interval)})
    text = paper.text.replace(MARK, "\ufffd")  # it stands for citations from here on
    starts, ends = {start for start, _ in removed}, {end for _, end in removed}
    pieces, inside = [], False
    for start, end in pairwise(edges):
        # Edges that neither open nor close an interval (breaks, inserted texts) leave things as they are.
        inside = start in starts or (inside and start not in ends)
        pieces.append(breaks.get(start, ""))
        pieces.append(inserted.get(start, ""))
        if not inside:
            pieces.append(text[start:end])
    return "".join(pieces)


def _breaks(spans: dict[str, list[Span]]) -> dict[int, str]:
    breaks: dict[int, str] = {}
    for kind in ("title", *_BODY):
        for span in spans.get(kind, []):
            breaks[span.start] = breaks[span.end] = "\n\n"
    return breaks
