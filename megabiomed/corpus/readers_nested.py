"""Records that hold metadata and parse together: S2ORC of 2019-09-28, the output of s2orc-doc2json, and plain texts."""

from __future__ import annotations

import re
from typing import Any

from megabiomed.corpus.layouts import Layout
from megabiomed.corpus.readers_2020 import paper_2020
from megabiomed.corpus.readers_lines import Record
from megabiomed.corpus.readers_spans import parse_ids, parse_integer
from megabiomed.corpus.records import Paper, Rejects

_PMC = re.compile(r"PMC[0-9]{1,12}")
_IDENTIFIERS = {"pmcid": "pmc_id", "pmc": "pmc_id", "pmid": "pubmed_id", "pubmed": "pubmed_id", "doi": "doi"}
_NAMES = ("id", "paper_id", "corpusid", "added_id")


def paper_2019(record: Record, rejects: Rejects) -> Paper | None:
    """`{paper_id, metadata{...}, grobid_parse, latex_parse}`: metadata with the first of the two parses that exists."""
    metadata = record.value.get("metadata")
    if not isinstance(metadata, dict):
        rejects.add("record: metadata is not an object", record.where, type(metadata).__name__)
        return None
    if not _named(record, rejects):
        return None
    return paper_2020(record, metadata, _parse(record, ("grobid_parse", "latex_parse"), rejects), rejects)


def doc2json_paper(record: Record, rejects: Rejects) -> Paper | None:
    """`{paper_id, title, year, abstract, identifiers, pdf_parse | latex_parse}` as s2orc-doc2json writes it."""
    if not _named(record, rejects):
        return None
    value = record.value
    metadata = {name: value.get(name) for name in ("title", "abstract", "year")}
    identifiers = value.get("identifiers")
    for name, entry in (identifiers if isinstance(identifiers, dict) else {}).items():
        metadata[_IDENTIFIERS.get(str(name).lower(), str(name).lower())] = entry
    # Papers converted from PubMed Central's own XML are named by their PMC id, and have it nowhere else.
    if _PMC.fullmatch(str(value["paper_id"])):
        metadata.setdefault("pmc_id", value["paper_id"])
    return paper_2020(record, metadata, _parse(record, ("pdf_parse", "latex_parse"), rejects), rejects)


def text_paper(record: Record, rejects: Rejects) -> Paper | None:
    """`{text[, id, title, year, externalids]}`: any other source, such as general text for replay."""
    value, where = record.value, record.where
    text = value.get("text")
    if not isinstance(text, str) or not text.strip():
        rejects.add("record: text is empty" if isinstance(text, str) else "record: text is of another type", where)
        return None
    name = next((value[key] for key in _NAMES if isinstance(value.get(key), str | int)), None)
    ids = value.get("externalids")
    title = value.get("title")
    return Paper(
        # Every document needs an id: the order, the split and the trace go by it.
        paper_id=str(name) if name not in (None, "") else f"{record.path.name}:{record.line}",
        ids=parse_ids(ids, where, rejects) if ids is not None else {},
        title=title if isinstance(title, str) else "",
        year=parse_integer(value.get("year")),
        text=text,
        spans={},
        source=record.path.name,
        line=record.line,
        offset=record.offset,
    )


def _named(record: Record, rejects: Rejects) -> bool:
    name = record.value.get("paper_id")
    if isinstance(name, str | int) and not isinstance(name, bool) and str(name).strip():
        return True
    rejects.add("record: no paper_id", record.where, repr(name))
    return False


def _parse(record: Record, names: tuple[str, ...], rejects: Rejects) -> dict[str, Any]:
    for name in names:
        parse = record.value.get(name)
        if isinstance(parse, dict):
            return parse
        if parse is not None:
            rejects.add(f"field: {name} of another type", record.where, type(parse).__name__)
    return {}


RELEASE_2019 = Layout(paper_2019, keys=("grobid_parse",))
DOC2JSON = Layout(doc2json_paper, keys=("pdf_parse", "latex_parse"))
TEXT = Layout(text_paper, keys=("text",))
