"""Papers of the Semantic Scholar Datasets API: dataset `s2orc`, one text and spans as JSON text inside JSON; `abstracts`."""

from __future__ import annotations

from typing import Any

from megabiomed.corpus.layouts import Layout
from megabiomed.corpus.readers_lines import Record
from megabiomed.corpus.readers_spans import parse_annotations, parse_fields, parse_ids, parse_integer
from megabiomed.corpus.records import Paper, Rejects, Span


def api_paper(record: Record, rejects: Rejects) -> Paper | None:
    """Turn `{corpusid, externalids, content: {text, annotations}}`, or `{corpusid, openaccessinfo: {externalids}, abstract}`,
    into a `Paper`; None, counted, when it holds none.

    External ids may be lower case (this dataset) or mixed case (the `papers` and `abstracts` datasets).
    """
    value, where = record.value, record.where
    paper_id = parse_integer(value.get("corpusid"))
    if paper_id is None:
        rejects.add("record: no corpusid", where, repr(value.get("corpusid")))
        return None
    text, externalids = value.get("abstract"), value.get("externalids")
    # The dataset `abstracts` has one text per record and no annotations: all of it is the abstract.
    if "content" not in value and isinstance(text, str) and text.strip():
        spans = {"abstract": [Span(0, len(text))]}
        access = value.get("openaccessinfo")
        externalids = access.get("externalids") if isinstance(access, dict) else externalids
    else:
        text = _content_text(value, where, rejects)
        if text is None:
            return None
        spans = parse_annotations(value["content"].get("annotations"), len(text), where, rejects)
    titles = spans.get("title")
    return Paper(
        paper_id=str(paper_id),
        ids=parse_ids(externalids, where, rejects),
        title=" ".join(text[titles[0].start : titles[0].end].split()) if titles else "",
        year=parse_integer(value.get("year")),
        text=text,
        spans=spans,
        source=record.path.name,
        line=record.line,
        offset=record.offset,
        fields=parse_fields(value),
    )


def _content_text(value: dict[str, Any], where: str, rejects: Rejects) -> str | None:
    content = value.get("content")
    if not isinstance(content, dict):
        rejects.add("record: no content", where, type(content).__name__)
        return None
    text = content.get("text")
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
