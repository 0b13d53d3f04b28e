"""Stream the lines of plain or packed files as JSON objects; damage is counted by reason and place, not raised."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from megabiomed.corpus.records import Rejects
from megabiomed.corpus.tables import TABLES
from megabiomed.corpus.unpack import open_unpacked
from megabiomed.corpus.unpack_streams import Damage
from megabiomed.ground.errors import DataError

MAX_LINE_BYTES = 1 << 28
"""Longest line that is read. It bounds the memory; the longest records of S2ORC are some tens of megabytes."""

_HIGH, _LOW = rb"u[dD][89abAB][0-9a-fA-F]{2}", rb"u[dD][c-fC-F][0-9a-fA-F]{2}"
_ESCAPE = re.compile(rb"\\(?:%b\\%b|(%b|%b)|.)" % (_HIGH, _LOW, _HIGH, _LOW), re.DOTALL)
"""Any escape of a JSON text; group 1 is half of a surrogate pair without its other half. Complete pairs and escaped
backslashes match first, so that `\\\\ud800`, a backslash and five letters, is not taken for one."""

Open = Callable[[], AbstractContextManager[IO[bytes]]]


@dataclass(frozen=True)
class Record:
    """One JSON object and its place: `line` from 1, `offset` in bytes of the uncompressed file; `member` of an archive."""

    value: dict[str, Any]
    path: Path
    line: int
    offset: int
    member: str = ""

    @property
    def where(self) -> str:
        return f"{self.path}:{self.member}:{self.line}" if self.member else f"{self.path}:{self.line}"


def check_readable(path: Path) -> None:
    """Raise `DataError` when a file is missing, is a folder or cannot be opened."""
    try:
        with path.open("rb"):
            return
    except OSError as error:
        raise DataError(
            f"{path} cannot be read", got=error.strerror, expected="a .jsonl or .jsonl.gz file", do="check the path"
        ) from None


def read_records(path: Path, rejects: Rejects, max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[Record]:
    """Yield the objects of a JSON-lines file one at a time, those that fill a .json file (one, or a list), or rows of a table.

    gzip, bzip2, xz and zstd are known by their first bytes, not by the name.
    """
    if path.suffix in TABLES:
        yield from _table_rows(path)
        return
    check_readable(path)
    if path.suffix == ".json" and (values := _whole(path, max_line_bytes, rejects)):
        for number, value in enumerate(values, 1):
            yield Record(value, path, number, 0)
        return
    yield from _records(path, "", lambda: open_unpacked(path), rejects, max_line_bytes)


def read_lines(file: IO[bytes], path: Path, rejects: Rejects, member: str) -> Iterator[Record]:
    """The objects of JSON lines that stand in a file of an archive; offsets are those in that file."""
    yield from _records(path, member, lambda: nullcontext(file), rejects, MAX_LINE_BYTES)


def _records(path: Path, member: str, open_file: Open, rejects: Rejects, limit: int) -> Iterator[Record]:
    name = f"{path}:{member}" if member else str(path)
    for line, offset, data in _lines(name, open_file, rejects, limit):
        value = _decode(data, f"{name}:{line}", rejects)
        if value is not None:
            yield Record(value, path, line, offset, member)


def _whole(path: Path, limit: int, rejects: Rejects) -> list[dict[str, Any]]:
    """The objects of a file that is one JSON value, as doc2json writes it over many lines; none when it is something else."""
    if path.stat().st_size > limit:
        return []
    return json_objects(path.read_bytes(), f"{path}:1", rejects)


def json_objects(data: bytes, where: str, rejects: Rejects) -> list[dict[str, Any]]:
    """The object that these bytes are, or the objects of a list; none when they are something else, which is not counted."""
    # An account of its own: should they turn out to be JSON lines, their damage is counted when they are read.
    account = Rejects(strict=rejects.strict)
    try:
        value = json.loads(_repaired(data, where, account))
    except (ValueError, RecursionError):
        return []
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(entry, dict) for entry in values):
        return []
    rejects.merge(account)
    return values


def _table_rows(path: Path) -> Iterator[Record]:
    """Rows of a table, streamed; `offset` is the number of the row, as there are no lines."""
    check_readable(path)
    for number, row in enumerate(TABLES[path.suffix](path)):
        yield Record(row, path, number + 1, number)


def _repaired(data: bytes, where: str, rejects: Rejects) -> bytes:
    """Replace lone surrogates, which JSON can spell but UTF-8 cannot hold, one for one so that offsets stay true.

    It is done before the JSON is read, so that no key, id, title or field of study can hold one later.
    """
    if (
        b"\\ud" not in data and b"\\uD" not in data
    ):  # nearly every record: the regular expression costs more than the JSON
        return data
    lone = sum(match[1] is not None for match in _ESCAPE.finditer(data))
    if not lone:
        return data
    rejects.add("field: lone surrogates replaced", where, f"{lone} in {len(data)} bytes")
    return _ESCAPE.sub(lambda match: match[0] if match[1] is None else rb"\ufffd", data)


def _lines(path: str, open_file: Open, rejects: Rejects, limit: int) -> Iterator[tuple[int, int, bytes]]:
    """(number from 1, byte offset, bytes) of every line that is neither blank nor too long."""
    number, offset = 0, 0
    try:
        for data, size in _sized_lines(open_file, limit):
            number += 1
            if size > limit:
                rejects.add("record: line too long", f"{path}:{number}", f"more than {limit} bytes")
            elif data.isspace():
                rejects.add("input: blank line", f"{path}:{number}")
            else:
                yield number, offset, data
            offset += size
    # What was read before the damage counts: a download that was cut off still has most of its papers.
    except Damage as error:
        rejects.add(f"input: {error.kind} {error.packing}", f"{path}:{number + 1}", str(error))
    except OSError as error:
        raise DataError(f"{path} cannot be read after line {number}", got=error.strerror) from None
    else:
        if number == 0:
            rejects.add("input: empty file", path)


def _sized_lines(open_file: Open, limit: int) -> Iterator[tuple[bytes, int]]:
    """Every line with its size in bytes; of a line above the limit only the beginning, as it may not fit the memory."""
    with open_file() as file:
        # One byte more than allowed tells a line that is too long from one that just fits.
        while data := file.readline(limit + 1):
            rest = _skip_line(file) if len(data) > limit and not data.endswith(b"\n") else 0
            yield data, len(data) + rest


def _skip_line(file: IO[bytes]) -> int:
    skipped = 0
    # In pieces, because the line may not fit into memory.
    while piece := file.readline(1 << 20):
        skipped += len(piece)
        if piece.endswith(b"\n"):
            break
    return skipped


def _decode(data: bytes, where: str, rejects: Rejects) -> dict[str, Any] | None:
    try:
        # A byte order mark belongs to the first line of a file.
        value = json.loads(_repaired(data, where, rejects).decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        rejects.add("record: invalid UTF-8", where, f"byte {error.start} of the line: {error.reason}")
        return None
    except (ValueError, RecursionError) as error:
        rejects.add("record: invalid JSON", where, str(error))
        return None
    if not isinstance(value, dict):
        rejects.add("record: not an object", where, type(value).__name__)
        return None
    return value
