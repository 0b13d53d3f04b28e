"""Papers of the Semantic Scholar Datasets API: dataset `s2orc_v2`, whose body and bibliography are two texts.

Layout as in the releases of 2025 and 2026: `{corpusid, title, authors, openaccessinfo: {externalids, license, ...}, body:
{text, annotations}, bibliography: {text, annotations}}`. Annotations are JSON text inside the JSON, as in `s2orc`, and their
names have underscores: `section_header`, `paragraph`, `sentence`, `bib_ref`; `bib_entry`, `bib_title`, `bib_author_last_name`.
"""

from __future__ import annotations

from typing import Any

from megabiomed.corpus.compose import SEPARATOR
from megabiomed.corpus.external_ids import first_of, parse_ids
from megabiomed.corpus.layouts import Layout
from megabiomed.corpus.licences import parse_licence
from megabiomed.corpus.readers_api import marked_text
from megabiomed.corpus.readers_lines import Record
from megabiomed.corpus.readers_spans import first_inside, parse_annotations, parse_fields, parse_integer, parse_year
from megabiomed.corpus.records import Paper, Rejects, Span


def v2_paper(record: Record, rejects: Rejects) -> Paper | None:
    """The title and the body as one text; the bibliography says which works are cited and is no part of the text."""
    value, where = record.value, record.where
    paper_id = parse_integer(first_of(value, "corpusid"))
    if paper_id is None:
        rejects.add("record: no corpusid", where, repr(value.get("corpusid")))
        return None
    text = marked_text(value, "body", where, rejects)
    if text is None:
        return None
    spans = parse_annotations(value["body"].get("annotations"), len(text), where, rejects)
    title = _title(value, where, rejects)
    if title and "title" not in spans:
        text, spans = _under_title(title, text, spans)
    access = value.get("openaccessinfo")
    access = access if isinstance(access, dict) else {}
    return Paper(
        paper_id=str(paper_id),
        ids=parse_ids(first_of(access, "externalids") or first_of(value, "externalids"), where, rejects),
        title=title,
        year=parse_year(value.get("year")),
        text=text,
        spans=spans,
        source=record.path.name,
        line=record.line,
        offset=record.offset,
        fields=parse_fields(value),
        references=_references(value.get("bibliography"), where, rejects),
        licence=parse_licence(access.get("license")),
    )


def _title(value: dict[str, Any], where: str, rejects: Rejects) -> str:
    title = value.get("title")
    if title is not None and not isinstance(title, str):
        rejects.add("field: title of another type", where, type(title).__name__)
        return ""
    return " ".join((title or "").split())


def _under_title(title: str, text: str, spans: dict[str, list[Span]]) -> tuple[str, dict[str, list[Span]]]:
    shift = len(title) + len(SEPARATOR)
    moved = {
        name: [Span(span.start + shift, span.end + shift, span.attributes) for span in entries]
        for name, entries in spans.items()
    }
    return title + SEPARATOR + text, {"title": [Span(0, len(title))], **moved}


def _references(bibliography: Any, where: str, rejects: Rejects) -> dict[str, tuple[str, str]]:
    """Id of each entry of the bibliography to the title and the first author's last name that are marked inside it."""
    if not isinstance(bibliography, dict):
        return {}
    text = bibliography.get("text")
    if not isinstance(text, str) or not text:
        return {}
    spans = parse_annotations(bibliography.get("annotations"), len(text), f"{where} bibliography", rejects)
    works = {}
    for entry in spans.get("bibentry", []):
        title = first_inside(text, spans.get("bibtitle", []), entry)
        last = first_inside(text, spans.get("bibauthorlastname", []), entry)
        name = entry.attributes.get("id")
        if name is not None and title and last:
            works[str(name)] = (title, last)
    return works


S2ORC_V2 = Layout(v2_paper, keys=(("corpusid", "body"), ("corpus_id", "body"), ("body", "bibliography")))
