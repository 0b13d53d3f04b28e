"""Papers of S2ORC 20200705v1: parsed paragraphs (`pdf_parses`) joined with `metadata` by paper_id.

The join keeps the metadata of papers with a parse in a temporary SQLite file, so memory does not grow with the shard.
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from megabiomed.corpus.external_ids import parse_ids
from megabiomed.corpus.layouts import Layout
from megabiomed.corpus.readers_compose import compose
from megabiomed.corpus.readers_lines import Record, read_records
from megabiomed.corpus.readers_spans import parse_fields, parse_integer, parse_references, parse_year
from megabiomed.corpus.records import Paper, Rejects

_ID_FIELDS = ("pmc_id", "pubmed_id", "doi", "arxiv_id", "acl_id")
_METADATA_FIELDS = ("paper_id", "title", "abstract", "year", "mag_field_of_study", *_ID_FIELDS)


def joined_papers(metadata: Path, parses: Iterable[Path], rejects: Rejects) -> Iterator[Paper]:
    """Yield the papers of the parse files that have metadata; both sides' unmatched records are counted."""
    with MetadataIndex(metadata, rejects) as index:
        for path in parses:
            for record in read_records(path, rejects):
                paper_id = _paper_id(record, rejects)
                metadata_row = index.take(paper_id) if paper_id else None
                if metadata_row is not None:
                    paper = paper_2020(record, metadata_row, record.value, rejects)
                    if paper is not None:
                        yield paper
                elif paper_id:
                    rejects.add("record: parse without metadata", record.where, f"paper_id {paper_id}")
        unused, example = index.unused()
        if unused:
            rejects.add("record: metadata without parse", str(metadata), f"for example paper_id {example}", unused)


def metadata_paper(record: Record, rejects: Rejects) -> Paper | None:
    """A paper from a single file: title and abstract of a metadata line, or a parse without its ids."""
    if _paper_id(record, rejects) is None:
        return None
    is_parse = "body_text" in record.value
    return paper_2020(record, {} if is_parse else record.value, record.value if is_parse else {}, rejects)


def paper_2020(record: Record, metadata: dict[str, Any], parse: dict[str, Any], rejects: Rejects) -> Paper | None:
    """Compose the text of title, abstract, section headers and paragraphs, and move their spans into it."""
    where = record.where
    title = metadata.get("title")
    if title is not None and not isinstance(title, str):
        rejects.add("field: title of another type", where, type(title).__name__)
        title = None
    text, spans = compose(title or "", metadata.get("abstract"), parse, where, rejects)
    # Title and headers alone are nothing to train on.
    if not spans.keys() - {"title", "sectionheader"}:
        rejects.add("record: text is empty", where, "neither abstract nor paragraphs")
        return None
    return Paper(
        paper_id=str(record.value["paper_id"]),
        ids=parse_ids({name: metadata.get(name) for name in _ID_FIELDS}, where, rejects),
        title=" ".join((title or "").split()),
        year=parse_year(metadata.get("year")),
        text=text,
        spans=spans,
        source=record.path.name,
        line=record.line,
        offset=record.offset,
        fields=parse_fields(metadata),
        references=parse_references(parse.get("bib_entries")),
    )


class MetadataIndex:
    """The metadata rows that may have a parse, by paper_id, in a temporary file that is removed on exit."""

    def __init__(self, path: Path, rejects: Rejects) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="megabiomed-metadata-")
        # Without transactions: the file is thrown away in any case.
        self._base = sqlite3.connect(Path(self._folder.name) / "metadata.sqlite", isolation_level=None)
        # The file lives as long as this object, so it needs no protection against a crash.
        self._base.execute("PRAGMA journal_mode = OFF")
        self._base.execute("PRAGMA synchronous = OFF")
        self._base.execute("CREATE TABLE papers (id TEXT PRIMARY KEY, row TEXT, used INTEGER DEFAULT 0) WITHOUT ROWID")
        self._path, self._rejects = path, rejects

    def __enter__(self) -> MetadataIndex:
        try:
            for record in read_records(self._path, self._rejects):
                self._insert(record)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._close()

    def take(self, paper_id: str) -> dict[str, Any] | None:
        """The row of a paper, marked as used; None when there is none."""
        stored = self._base.execute("SELECT row FROM papers WHERE id = ?", (paper_id,)).fetchone()
        if stored is None:
            return None
        # Marked, not deleted: the rows that no parse asked for are reported at the end.
        self._base.execute("UPDATE papers SET used = 1 WHERE id = ?", (paper_id,))
        row: dict[str, Any] = json.loads(stored[0])
        return row

    def unused(self) -> tuple[int, str | None]:
        """How many rows no parse asked for, and the id of one."""
        count, example = self._base.execute("SELECT count(*), min(id) FROM papers WHERE used = 0").fetchone()
        return count, example

    def _insert(self, record: Record) -> None:
        paper_id = _paper_id(record, self._rejects)
        if paper_id is None:
            return
        # Most papers of this release have metadata only. Without this the table would be many times as large as it need be.
        if record.value.get("has_pdf_parse") is False:
            self._rejects.add("record: no full text in this release", record.where, f"paper_id {paper_id}")
            return
        row = json.dumps({name: record.value.get(name) for name in _METADATA_FIELDS})
        # Of repeated rows the first one counts.
        inserted = self._base.execute("INSERT OR IGNORE INTO papers (id, row) VALUES (?, ?)", (paper_id, row))
        if inserted.rowcount == 0:
            self._rejects.add("record: repeated metadata", record.where, f"paper_id {paper_id}")

    def _close(self) -> None:
        self._base.close()
        self._folder.cleanup()


def _paper_id(record: Record, rejects: Rejects) -> str | None:
    number = parse_integer(record.value.get("paper_id"))
    if number is None:
        rejects.add("record: no paper_id", record.where, repr(record.value.get("paper_id")))
        return None
    return str(number)


RELEASE_2020 = Layout(metadata_paper, keys=("paper_id",), join=joined_papers)
