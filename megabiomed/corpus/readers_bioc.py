"""BioC JSON (Comeau et al. 2013, Database bat064), as NCBI ships it: BioC-PMC full texts and BioC-PubMed abstracts, PubTator.

A collection `{source, date, infons, documents: [{id, infons, passages: [{offset, infons: {section_type, type}, text}]}]}`, one
document of it, or a list of collections. `section_type` is one of TITLE, ABSTRACT, INTRO, METHODS, ..., FIG, TABLE, REF,
ACK_FUND, AUTH_CONT, COMP_INT; `type` tells headers (`title_1`) from paragraphs. Not read: annotations, relations, keywords,
abbreviations, footnotes, supplementary material.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from megabiomed.corpus.back_matter import kind_of_section
from megabiomed.corpus.compose import Composer
from megabiomed.corpus.external_ids import find_ids, first_of
from megabiomed.corpus.layouts import Layout
from megabiomed.corpus.licences import parse_licence
from megabiomed.corpus.readers_lines import Record
from megabiomed.corpus.readers_spans import parse_year
from megabiomed.corpus.records import Paper, Rejects, Span

_COLLECTIONS = ("documents", "PubTator3")
_UNREAD = frozenset({"abbr", "suppl", "keyword", "review_info"})
_SECTIONS = {"ref": "bibentry", "fig": "figure", "table": "table", "abstract": "abstract"}
_Passage = tuple[str, str, str]
"""Section type, type and text."""


def documents(record: Record) -> Iterator[Record]:
    """The documents of a collection; another record as it is."""
    held = next((record.value[key] for key in _COLLECTIONS if key in record.value), None)
    if not isinstance(held, list) or not held:
        yield record
        return
    for document in held:
        yield replace(record, value=document if isinstance(document, dict) else {"passages": document})


def bioc_paper(record: Record, rejects: Rejects) -> Paper | None:
    """The paper of one document; None, counted, when it has neither abstract nor paragraphs."""
    value, where = record.value, record.where
    passages = value.get("passages")
    if not isinstance(passages, list):
        rejects.add("record: no passages", where, type(passages).__name__)
        return None
    good = [passage for passage in passages if isinstance(passage, dict)]
    if len(good) < len(passages):
        rejects.add("field: passage of another type", where, count=len(passages) - len(good))
    text, spans = _text([_read(passage) for passage in good])
    if not spans.keys() & {"abstract", "paragraph"}:
        rejects.add("record: text is empty", where, "neither abstract nor paragraphs")
        return None
    around = [value, *(held for entry in (value, *good) if isinstance(held := entry.get("infons"), dict))]
    ids: dict[str, str] = {}
    # The document's own first: a reference's passage has the PubMed id of the cited work.
    for held in around[:3]:
        ids = find_ids(held, where, rejects) | ids
    name = value.get("id")
    titles = spans.get("title")
    return Paper(
        paper_id=_name(ids, name) or f"{record.path.name}:{record.line}",
        ids=ids,
        title=text[titles[0].start : titles[0].end] if titles else "",
        year=next((year for held in around if (year := parse_year(first_of(held, "year"))) is not None), None),
        text=text,
        spans=spans,
        source=record.path.name,
        line=record.line,
        offset=record.offset,
        licence=next((found for held in around if (found := parse_licence(first_of(held, "license")))), ""),
    )


def _name(ids: dict[str, str], name: Any) -> str:
    if "pmc" in ids:
        return f"PMC{ids['pmc']}"
    if "pubmed" in ids:
        return f"PMID{ids['pubmed']}"
    return str(name).strip() if isinstance(name, str | int) and not isinstance(name, bool) else ""


def _read(passage: dict[str, Any]) -> _Passage:
    infons = passage.get("infons")
    infons = infons if isinstance(infons, dict) else {}
    text = passage.get("text")
    if not isinstance(text, str) or not text.strip():
        sentences = passage.get("sentences")
        held = sentences if isinstance(sentences, list) else []
        pieces = [entry.get("text") for entry in held if isinstance(entry, dict)]
        text = " ".join(piece for piece in pieces if isinstance(piece, str))
    kind = str(infons.get("type") or "").lower()
    return str(infons.get("section_type") or infons.get("section") or kind).lower(), kind, " ".join(text.split())


def _text(passages: list[_Passage]) -> tuple[str, dict[str, list[Span]]]:
    composer = Composer()
    header, label = "", ""
    for section, kind, text in passages:
        if section in _UNREAD or kind == "footnote":
            continue
        if section == "title" or kind == "front":
            composer.append(text, "title")
        elif "title" in kind and section not in ("fig", "table"):
            header = text
            # The header of a part of the abstract begins its paragraph, as in MEDLINE.
            label = f"{text.rstrip(' :.')}: " if section == "abstract" else ""
            if section != "abstract":
                composer.append(text, kind_of_section(section, text) or "sectionheader")
        else:
            composer.append(label + text if text else "", _kind(section, kind, header))
            label = ""
    return composer.finish()


def _kind(section: str, kind: str, header: str) -> str:
    if kind.startswith("fig"):
        return "figure"
    if kind.startswith("table"):
        return "table"
    return _SECTIONS.get(section) or kind_of_section(section, header) or "paragraph"


BIOC = Layout(bioc_paper, keys=("passages", *_COLLECTIONS), parts=documents)
