"""Titles and abstracts of MEDLINE/PubMed XML (NLM's PubMed DTD, 2019 to 2025): the yearly baseline, updates, and E-utilities.

`<PubmedArticleSet>` holds 30,000 `<PubmedArticle>` a file, mostly as `.xml.gz`; `<PubmedBookArticle>` are chapters of books.
Not read: translated abstracts, authors, headings, references, and the lists of deleted citations.
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element

from megabiomed.corpus.compose import Composer, Inline
from megabiomed.corpus.external_ids import parse_ids
from megabiomed.corpus.jats_inline import inline
from megabiomed.corpus.layouts import Layout
from megabiomed.corpus.readers_lines import Record
from megabiomed.corpus.readers_spans import parse_year
from megabiomed.corpus.records import Paper, Rejects

_KEYS = ("<PubmedArticle>", "<PubmedBookArticle>", "<MedlineCitation>")
_TITLES = ("Article/ArticleTitle", "ArticleTitle", "Book/BookTitle")
_ABSTRACTS = ("Article/Abstract", "Abstract")
_YEARS = ("Article/Journal/JournalIssue/PubDate", "Book/PubDate")


def medline_paper(record: Record, rejects: Rejects) -> Paper | None:
    """The citation of a record; None, counted, when it has no abstract."""
    outer, where = next((record.value[key] for key in _KEYS if key in record.value), None), record.where
    if not isinstance(outer, Element):
        rejects.add("record: no citation", where, type(outer).__name__)
        return None
    citation = next(
        (held for name in ("MedlineCitation", "BookDocument") if (held := outer.find(name)) is not None), outer
    )
    title = _text(_first(citation, _TITLES)).finish()[0]
    composer = Composer()
    composer.append(title, "title")
    for part in _parts(_first(citation, _ABSTRACTS)):
        text, marks = part.finish()
        composer.append(text, "abstract", marks)
    text, spans = composer.finish()
    if "abstract" not in spans:
        rejects.add("record: text is empty", where, "no abstract")
        return None
    ids = _ids(outer, citation, where, rejects)
    date = _first(citation, _YEARS)
    return Paper(
        paper_id=f"PMID{ids['pubmed']}" if "pubmed" in ids else f"{record.path.name}:{record.line}",
        ids=ids,
        title=title,
        # A span of issues has no year of its own: <MedlineDate>1998 Dec-1999 Jan</MedlineDate>.
        year=parse_year(date.findtext("Year") or date.findtext("MedlineDate")) if date is not None else None,
        text=text,
        spans=spans,
        source=record.path.name,
        line=record.line,
        offset=record.offset,
    )


def _parts(abstract: Element | None) -> Iterator[Inline]:
    """The parts of a structured abstract, each after its label: "METHODS: We slept."."""
    for part in abstract.findall("AbstractText") if abstract is not None else ():
        held = Inline()
        if label := (part.get("Label") or "").strip(" :"):
            held.add(f"{label}: ")
        start = held.length
        if inline(part, held).length > start:
            yield held


def _ids(outer: Element, citation: Element, where: str, rejects: Rejects) -> dict[str, str]:
    listed = [
        *outer.findall("PubmedData/ArticleIdList/ArticleId"),
        *outer.findall("PubmedBookData/ArticleIdList/ArticleId"),
    ]
    held = {entry.get("IdType"): entry.text for entry in reversed(listed)}
    return parse_ids({**held, "pubmed": citation.findtext("PMID") or held.get("pubmed")}, where, rejects)


def _first(element: Element, paths: tuple[str, ...]) -> Element | None:
    return next((held for path in paths if (held := element.find(path)) is not None), None)


def _text(element: Element | None) -> Inline:
    return inline(element, Inline()) if element is not None else Inline()


MEDLINE = Layout(medline_paper, keys=_KEYS)
