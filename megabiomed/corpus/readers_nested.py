"""Records that hold metadata and parse together: S2ORC of 2019-09-28, the output of s2orc-doc2json, and plain texts."""

from __future__ import annotations

import re
from typing import Any

from megabiomed.corpus.external_ids import find_ids, first_of
from megabiomed.corpus.layouts import Layout
from megabiomed.corpus.licences import parse_licence
from megabiomed.corpus.readers_2020 import paper_2020
from megabiomed.corpus.readers_lines import Record
from megabiomed.corpus.readers_spans import parse_fields, parse_year
from megabiomed.corpus.records import Paper, Rejects

_PMC = re.compile(r"PMC[0-9]{1,12}")
_IDENTIFIERS = {"pmcid": "pmc_id", "pmc": "pmc_id", "pmid": "pubmed_id", "pubmed": "pubmed_id", "doi": "doi"}
_NAMES = ("id", "paperid", "corpusid", "addedid", "pmcid", "pmid")
_PARSES = ("pdf_parse", "latex_parse", "jats_parse")


def metadata_of(record: Record, rejects: Rejects) -> dict[str, Any] | None:
    """The `metadata` of a record that has an id; None, counted, where it is no object or the id is missing."""
    metadata = record.value.get("metadata")
    if not isinstance(metadata, dict):
        rejects.add("record: metadata is not an object", record.where, type(metadata).__name__)
        return None
    return metadata if is_named(record, rejects) else None


def paper_2019(record: Record, rejects: Rejects) -> Paper | None:
    """`{paper_id, metadata{...}, grobid_parse, latex_parse}`: metadata with the first of the two parses that exists."""
    if (metadata := metadata_of(record, rejects)) is None:
        return None
    return paper_2020(record, metadata, _parse(record, ("grobid_parse", "latex_parse"), rejects), rejects)


def doc2json_paper(record: Record, rejects: Rejects) -> Paper | None:
    """`{paper_id, title, year, abstract, identifiers, pdf_parse | latex_parse | jats_parse}` as s2orc-doc2json writes it."""
    if not is_named(record, rejects):
        return None
    return paper_2020(record, joined_metadata(record, record.value), _parse(record, _PARSES, rejects), rejects)


def joined_metadata(record: Record, metadata: dict[str, Any]) -> dict[str, Any]:
    """Title, year and abstract of s2orc-doc2json's metadata, and its identifiers, under the names of 20200705v1."""
    found = {name: metadata.get(name) for name in ("title", "abstract", "year")}
    identifiers = metadata.get("identifiers")
    for name, entry in (identifiers if isinstance(identifiers, dict) else {}).items():
        found[_IDENTIFIERS.get(str(name).lower(), str(name).lower())] = entry
    # Papers converted from PubMed Central's own XML are named by their PMC id, and may have it nowhere else.
    if found.get("pmc_id") is None and _PMC.fullmatch(str(record.value["paper_id"])):
        found["pmc_id"] = record.value["paper_id"]
    return found


def text_paper(record: Record, rejects: Rejects) -> Paper | None:
    """`{text[, id, title, year, external_ids, license]}`: any other source, such as tables of papers, or general text."""
    value, where = record.value, record.where
    text = value.get("text")
    if not isinstance(text, str) or not text.strip():
        rejects.add("record: text is empty" if isinstance(text, str) else "record: text is of another type", where)
        return None
    name = next((held for key in _NAMES if isinstance(held := first_of(value, key), str | int) and str(held)), None)
    metadata = value.get("metadata")
    around = [value, *([metadata] if isinstance(metadata, dict) else [])]
    title = next((held["title"] for held in around if isinstance(held.get("title"), str)), "")
    return Paper(
        # Every document needs an id: the order, the split and the trace go by it.
        paper_id=str(name) if name is not None else f"{record.path.name}:{record.line}",
        ids=find_ids(value, where, rejects),
        title=title,
        year=next((year for held in around if (year := parse_year(held.get("year"))) is not None), None),
        text=text,
        spans={},
        source=record.path.name,
        line=record.line,
        offset=record.offset,
        fields=next((fields for held in around if (fields := parse_fields(held))), ()),
        licence=next((name for held in around if (name := parse_licence(first_of(held, "license", "licence")))), ""),
    )


def is_named(record: Record, rejects: Rejects) -> bool:
    """Whether a record has a paper_id; one without is counted."""
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
DOC2JSON = Layout(doc2json_paper, keys=_PARSES)
TEXT = Layout(text_paper, keys=("text",))
