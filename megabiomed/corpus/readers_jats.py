"""Full texts as JATS XML (NISO Z39.96, and its forerunner NLM 2 and 3), as PubMed Central ships them.

Read are single `.nxml` and `.xml` files, `pmc-articleset` and OAI-PMH answers with many articles, and the bulk `tar.gz`
packages. The markup tells what is what, so the spans have the names that the cleaning rules know. Not read: authors, journal,
keywords, footnotes, glossaries, supplementary material, translated and graphical abstracts, sub-articles (reviews).
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element

from megabiomed.corpus.compose import Composer
from megabiomed.corpus.external_ids import parse_ids
from megabiomed.corpus.file_lists import listed
from megabiomed.corpus.jats_sections import Sections, text_of
from megabiomed.corpus.layouts import Layout
from megabiomed.corpus.licences import parse_licence
from megabiomed.corpus.readers_lines import Record
from megabiomed.corpus.readers_spans import parse_year
from megabiomed.corpus.records import Paper, Rejects, Span

_KEY = "<article>"
_OTHER_ABSTRACTS = frozenset({"graphical", "teaser", "toc", "video", "stereochemical", "precis"})


def jats_paper(record: Record, rejects: Rejects) -> Paper | None:
    """The article of a record; None, counted, when it has neither abstract nor body."""
    article, where = record.value.get(_KEY), record.where
    if not isinstance(article, Element):
        rejects.add("record: no <article>", where, type(article).__name__)
        return None
    meta = article.find("front/article-meta")
    meta = Element("article-meta") if meta is None else meta
    title = text_of(meta.find("title-group/article-title"))
    text, spans = _text(article, meta, title)
    # Title, headers and references alone are nothing to train on.
    if not spans.keys() & {"abstract", "paragraph"}:
        rejects.add("record: text is empty", where, "neither abstract nor body")
        return None
    ids = parse_ids({entry.get("pub-id-type"): text_of(entry) for entry in meta.findall("article-id")}, where, rejects)
    entry = listed(record.path, ids.get("pmc", "")) if record.member else None
    if entry is not None and entry.pubmed:
        ids.setdefault("pubmed", entry.pubmed)
    years = [year for date in meta.findall("pub-date") if (year := parse_year(text_of(date.find("year"))))]
    return Paper(
        paper_id=_name(ids, record),
        ids=ids,
        title=title,
        year=min(years, default=None),
        text=text,
        spans=spans,
        source=record.path.name,
        line=record.line,
        offset=record.offset,
        licence=(entry.licence if entry is not None else "") or _licence(meta),
    )


def _name(ids: dict[str, str], record: Record) -> str:
    if "pmc" in ids:
        return f"PMC{ids['pmc']}"
    return f"PMID{ids['pubmed']}" if "pubmed" in ids else ids.get("doi") or f"{record.path.name}:{record.line}"


def _text(article: Element, meta: Element, title: str) -> tuple[str, dict[str, list[Span]]]:
    composer = Composer()
    sections = Sections(composer)
    composer.append(title, "title")
    for abstract in meta.findall("abstract"):
        if abstract.get("abstract-type") not in _OTHER_ABSTRACTS:
            sections.abstract(abstract)
    for part in ("body", "floats-group", "back"):
        sections.read(article.find(part))
    return composer.finish()


def _licence(meta: Element) -> str:
    """The licence that an article names by an address, or by a code in its text."""
    return next(
        (name for text in _licence_texts(meta) if (name := parse_licence(text)).startswith(("cc", "public"))), ""
    )


def _licence_texts(meta: Element) -> Iterator[str]:
    for licence in meta.iter("license"):
        yield from (element.get("href", "") for element in licence.iter())
        yield from (text_of(element) for element in licence.iter("license_ref"))
        yield licence.get("license-type", "")
        yield text_of(licence)


JATS = Layout(jats_paper, keys=(_KEY,))
