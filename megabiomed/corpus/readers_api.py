"""Papers of the Semantic Scholar Datasets API: dataset `s2orc`, one text and spans as JSON text inside JSON; `abstracts`."""

from __future__ import annotations

from typing import Any

from megabiomed.corpus.external_ids import first_of, parse_ids
from megabiomed.corpus.layouts import Layout
from megabiomed.corpus.licences import parse_licence
from megabiomed.corpus.readers_lines import Record
from megabiomed.corpus.readers_spans import parse_annotations, parse_fields, parse_integer, parse_year
from megabiomed.corpus.records import Paper, Rejects, Span


def api_paper(record: Record, rejects: Rejects) -> Paper | None:
    """Turn `{corpusid, externalids, content: {text, annotations}}`, or `{corpusid, openaccessinfo: {externalids}, abstract}`,
    into a `Paper`; None, counted, when it holds none.

    External ids may be lower case (this dataset) or mixed case (the `papers` and `abstracts` datasets).
    """
    value, where = record.value, record.where
    paper_id = parse_integer(first_of(value, "corpusid"))
    if paper_id is None:
        rejects.add("record: no corpusid", where, repr(value.get("corpusid")))
        return None
    text, externalids = value.get("abstract"), first_of(value, "externalids")
    # The dataset `abstracts` has one text per record and no annotations: all of it is the abstract.
    if "content" not in value and isinstance(text, str) and text.strip():
        spans = {"abstract": [Span(0, len(text))]}
        externalids = first_of(_access(value), "externalids") or externalids
    else:
        text = marked_text(value, "content", where, rejects)
        if text is None:
            return None
        spans = parse_annotations(value["content"].get("annotations"), len(text), where, rejects)
    titles = spans.get("title")
    return Paper(
        paper_id=str(paper_id),
        ids=parse_ids(externalids, where, rejects),
        title=" ".join(text[titles[0].start : titles[0].end].split()) if titles else "",
        year=parse_year(value.get("year")),
        text=text,
        spans=spans,
        source=record.path.name,
        line=record.line,
        offset=record.offset,
        fields=parse_fields(value),
        licence=parse_licence(_access(value).get("license")),
    )


def _access(value: dict[str, Any]) -> dict[str, Any]:
    """What a record says of its open access: its own `openaccessinfo`, or the `oainfo` of its content's source."""
    content = value.get("content")
    source = content.get("source") if isinstance(content, dict) else None
    held = (value.get("openaccessinfo"), source.get("oainfo") if isinstance(source, dict) else None)
    return next((access for access in held if isinstance(access, dict)), {})


def marked_text(value: dict[str, Any], name: str, where: str, rejects: Rejects) -> str | None:
    """The text of `{name: {text, annotations}}`; None, counted, when there is none."""
    marked = value.get(name)
    if not isinstance(marked, dict):
        rejects.add(f"record: no {name}", where, type(marked).__name__)
        return None
    text = marked.get("text")
    if text is None:
        rejects.add("record: text is null or missing", where)
        return None
    if not isinstance(text, str):
        rejects.add("record: text is of another type", where, type(text).__name__)
        return None
    if not text or text.isspace():
        rejects.add("record: text is empty", where)
        return None
    return text


DATASETS_API = Layout(api_paper, keys=("corpusid", "content"))
