"""The records of any file of papers: JSON, tables, XML, and tar archives of JSON and XML; its first bytes say what it is."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, cast

from megabiomed.corpus.archive_members import Member, archive_members
from megabiomed.corpus.readers_lines import (
    MAX_LINE_BYTES,
    Record,
    check_readable,
    json_objects,
    read_lines,
    read_records,
)
from megabiomed.corpus.records import Rejects
from megabiomed.corpus.tables import TABLES
from megabiomed.corpus.unpack import BEGINNING, is_tar, open_unpacked
from megabiomed.corpus.unpack_streams import Damage
from megabiomed.corpus.xml_records import is_xml, xml_elements
from megabiomed.ground.errors import DataError


def element_key(name: str) -> str:
    """The key of a record's value for an XML element: `<article>`, which no JSON object has by chance."""
    return f"<{name}>"


def read_any(path: Path, rejects: Rejects, elements: frozenset[str]) -> Iterator[Record]:
    """Yield the records of a file one at a time.

    An XML element is the record `{"<article>": Element}`; `line` counts the papers of the file, `offset` is the byte where the
    element begins. Of an archive, `line` counts the papers of all its files and `offset` is a byte of the unpacked archive.

    Args:
        elements: names of the XML elements that hold a paper each.

    Raises:
        DataError: the file is missing, or cannot be read.
    """
    check_readable(path)
    kind = "lines" if path.suffix in TABLES else _kind(path)
    if kind == "lines":
        yield from read_records(path, rejects)
        return
    number = 0
    try:
        with open_unpacked(path, tar=True) as file:
            records = _archive(file, path, rejects, elements) if kind == "tar" else _xml(file, path, rejects, elements)
            for record in records:
                number += 1
                yield replace(record, line=number)
    except Damage as error:
        rejects.add(f"input: {error.kind} {error.packing}", f"{path} after paper {number}", str(error))
    except OSError as error:
        raise DataError(f"{path} cannot be read after paper {number}", got=error.strerror) from None


def _kind(path: Path) -> str:
    try:
        with open_unpacked(path, tar=True) as file:
            beginning = _peek(file)
    except Damage:
        return "lines"  # where it is counted
    if is_tar(beginning):
        return "tar"
    return "xml" if is_xml(beginning) else "lines"


def _peek(file: IO[bytes]) -> bytes:
    return cast(io.BufferedReader, file).peek(BEGINNING)[:BEGINNING]


def _xml(
    file: IO[bytes], path: Path, rejects: Rejects, elements: frozenset[str], member: str = "", base: int = 0
) -> Iterator[Record]:
    where = f"{path}:{member}" if member else str(path)
    for found in xml_elements(file, elements, where, rejects):
        yield Record({element_key(found.element.tag): found.element}, path, 1, base + found.offset, member)


def _archive(file: IO[bytes], path: Path, rejects: Rejects, elements: frozenset[str]) -> Iterator[Record]:
    for member in archive_members(file, str(path), rejects):
        beginning = _peek(member.file)
        if is_xml(beginning):
            yield from _xml(member.file, path, rejects, elements, member.name, member.offset)
        elif beginning.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"["):
            yield from _json(member, path, rejects)
        else:
            rejects.add("input: archive member that is neither XML nor JSON", f"{path}:{member.name}")


def _json(member: Member, path: Path, rejects: Rejects) -> Iterator[Record]:
    content: IO[bytes] = member.file
    where = f"{path}:{member.name}"
    # Not by the name: the files in BioC's packages are JSON and are called .xml.
    if not member.name.endswith((".jsonl", ".ndjson")) and member.size <= MAX_LINE_BYTES:
        data = member.file.read()
        if values := json_objects(data, where, rejects):
            yield from (Record(value, path, 1, member.offset, member.name) for value in values)
            return
        content = io.BytesIO(data)
    for record in read_lines(content, path, rejects, member.name):
        yield replace(record, offset=member.offset + record.offset)
