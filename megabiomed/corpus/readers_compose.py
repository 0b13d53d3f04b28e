"""Compose one text with spans from the paragraphs of S2ORC 20200705v1, in the shape of the newer releases."""

from __future__ import annotations

from typing import Any

from megabiomed.corpus.compose import Composer
from megabiomed.corpus.readers_spans import parse_span
from megabiomed.corpus.records import Rejects, Span


def compose(
    title: str, abstract: Any, parse: dict[str, Any], where: str, rejects: Rejects
) -> tuple[str, dict[str, list[Span]]]:
    """Join title, abstract, section headers and paragraphs by blank lines.

    Args:
        abstract: text of the metadata; used when the parse has no abstract of its own.
        parse: `abstract` and `body_text` are lists of `{section, text, cite_spans, ref_spans, eq_spans}`.

    Returns:
        the text, and the spans `title`, `abstract`, `sectionheader`, `paragraph`, `bibref`, `figureref`, `tableref`,
        `formula`.
    """
    composer = _Composer(where, rejects)
    composer.append(title, "title")
    parsed = _paragraphs(parse, "abstract", where, rejects)
    for paragraph in parsed or _metadata_abstract(abstract, where, rejects):
        composer.paragraph(paragraph, "abstract")
    section = ""
    for paragraph in _paragraphs(parse, "body_text", where, rejects):
        header = paragraph.get("section")
        # Every paragraph names its section; the header belongs into the text once, where the section begins.
        if isinstance(header, str) and header.strip() and header != section:
            for name in _new_headers(section, header):
                composer.append(name, "sectionheader")
            section = header
        composer.paragraph(paragraph, "paragraph")
    return composer.finish()


def _new_headers(before: str, header: str) -> list[str]:
    """The parts of "Methods::Cells", as s2orc-doc2json writes a section in a section, that begin here."""
    parts, known = header.split("::"), before.split("::")
    shared = next((n for n, (one, other) in enumerate(zip(parts, known)) if one != other), min(len(parts), len(known)))
    return parts[shared:]


class _Composer(Composer):
    """A composer of paragraphs as GROBID's parse writes them."""

    def __init__(self, where: str, rejects: Rejects) -> None:
        super().__init__()
        self._where, self._rejects = where, rejects

    def paragraph(self, paragraph: dict[str, Any], kind: str) -> None:
        """Add a paragraph and its citation and reference spans, moved to where it now begins."""
        text = paragraph["text"]
        if not text.strip():
            return
        start = self.append(text, kind)
        for field in ("cite_spans", "ref_spans", "eq_spans"):
            entries = paragraph.get(field) or []
            if not isinstance(entries, list):
                self._rejects.add("span: list is of another type", f"{self._where} {field}", type(entries).__name__)
                continue
            for entry in entries:
                self._reference(entry, field, text, start)

    def _reference(self, entry: Any, field: str, text: str, start: int) -> None:
        where = f"{self._where} {field}"
        span = parse_span(entry, len(text), where, self._rejects)
        if span is None:
            return
        # The release repeats the marked text in each span, which shows when an offset counts bytes or another text.
        written = entry.get("text")
        # Of a formula it repeats the formula itself, for which a name may stand in the text.
        if field != "eq_spans" and written is not None and written != text[span.start : span.end]:
            self._rejects.add("span: marks other text than it says", where, repr(written))
            return
        target = entry.get("ref_id")
        kind = "formula" if field == "eq_spans" else "bibref"
        if field == "ref_spans":
            # The release calls them TABREF0, FIGREF1 and so on.
            kind = "tableref" if isinstance(target, str) and target.startswith("TAB") else "figureref"
        self.mark(kind, Span(start + span.start, start + span.end, {"ref_id": target} if target else {}))


def _paragraphs(parse: dict[str, Any], name: str, where: str, rejects: Rejects) -> list[dict[str, Any]]:
    entries = parse.get(name)
    if entries is None:
        return []
    if not isinstance(entries, list):
        rejects.add(f"field: {name} of another type", where, type(entries).__name__)
        return []
    good = [entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("text"), str)]
    if len(good) < len(entries):
        rejects.add("field: paragraph without text", f"{where} {name}", count=len(entries) - len(good))
    return good


def _metadata_abstract(abstract: Any, where: str, rejects: Rejects) -> list[dict[str, Any]]:
    if abstract is None:
        return []
    if not isinstance(abstract, str):
        rejects.add("field: abstract of another type", where, type(abstract).__name__)
        return []
    # Structured abstracts of this release mark the break between a heading and its text with ":::".
    return [{"text": abstract.replace(":::", ":")}]
