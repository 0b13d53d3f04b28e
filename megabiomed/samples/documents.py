"""Files of records: JSON, JSON lines, Parquet, Arrow and text tables, read so that one bad record costs one record.

Bytes that are not UTF-8 are kept as lone surrogates, as are halves of surrogate pairs that JSON spells out.
`fields.require_valid` then refuses the record that holds them, and no other one.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from megabiomed.corpus.tables import TABLES
from megabiomed.corpus.unpack import open_unpacked
from megabiomed.corpus.unpack_streams import Damage
from megabiomed.ground.errors import DataError
from megabiomed.samples.rejects import Unusable

Entry = tuple[str, str, Any]
"""(id or "", source, entry); the entry of a line that is no JSON is an `Unusable`. A source is the file's name with the
line from 1, the place in a list from 0, or the key in an object."""
Row = dict[str, str]

# First bytes of what would otherwise be read as one long damaged record.
_NOT_TEXT = {
    b"\xff\xfe\x00\x00": "UTF-32 text",  # before the mark of UTF-16, with which it begins
    b"\x00\x00\xfe\xff": "UTF-32 text",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"version https://git-lfs": "a git-lfs pointer instead of the file",
}
_WRAPPERS = ("data", "records", "rows", "examples", "questions")
"""Keys under which an object holds the list of all entries."""
# Characters. csv's default of 128 Ki would refuse long texts.
_LONGEST_FIELD = 1 << 27
_LONGEST_LINE = 1 << 28
_LONGEST_DOCUMENT = 1 << 33
"""Characters of a file of entries, which is held in memory as a whole."""


def text_lines(path: Path, newline: str | None = None) -> Iterator[str]:
    """Lines of a UTF-8 file, plain or packed (gzip, bzip2, xz, zstd), with or without a byte order mark.

    Args:
        newline: as in `open`; "" leaves the ends of lines as they are.

    Raises:
        DataError: no such file, one that is not UTF-8 text, a line that is too long, or damaged compressed data.
    """
    with _text(path, newline) as text:
        while line := text.readline(_LONGEST_LINE + 1):
            if len(line) > _LONGEST_LINE:
                raise DataError(f"{path} has a line of more than {_LONGEST_LINE:,} characters", do="check the file")
            yield line


@contextmanager
def _text(path: Path, newline: str | None = None) -> Iterator[TextIOWrapper]:
    """A text file, open; what is wrong with it is a `DataError`, wherever it is met."""
    _require_file(path)
    try:
        with open_unpacked(path) as file:
            _refuse_other_kinds(path, file.read(32))
        with TextIOWrapper(open_unpacked(path), "utf-8-sig", "surrogateescape", newline) as text:
            yield text
    except Damage as error:
        do = "unpack it yourself, if you trust it" if error.kind == "oversized" else "get a fresh copy of the file"
        raise DataError(f"{path} is {error.kind} {error.packing} data", got=error, do=do) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read", got=error, do="get a fresh copy of the file") from None


def _require_file(path: Path) -> None:
    if not path.is_file():
        wrong, do = ("is a folder", "give a file in it") if path.is_dir() else ("is not there", "give a file")
        raise DataError(f"{path} {wrong}", do=do)


def _refuse_other_kinds(path: Path, beginning: bytes) -> None:
    for magic, name in _NOT_TEXT.items():
        if beginning.startswith(magic):
            raise DataError(f"{path} is not UTF-8 text", got=name, do="unpack or convert it first")


def read_entries(path: Path, is_record: Callable[[Mapping[str, Any]], bool]) -> Iterator[Entry]:
    """Entries of a .parquet or .arrow file, of a JSON document, or of JSON lines; which of the two is seen from the content.

    A document is a list of entries, an object of id to entry, one entry alone, or an object with one list of entries
    (`{"data": [...]}`).

    Args:
        is_record: whether an object is one entry itself.

    Raises:
        DataError: the file cannot be read, or is neither a JSON document nor JSON lines.
    """
    if path.suffix in TABLES:
        yield from _rows(path)
        return
    # Read whole: whether it is one document or lines is known only at its end.
    text = _whole_text(path)
    pairs: list[tuple[str, Any]] = []

    def keep(found: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal pairs
        pairs = found  # of the outermost object in the end
        return dict(found)

    try:
        whole = json.loads(text, object_pairs_hook=keep, parse_int=_whole_number)
    except (ValueError, RecursionError) as error:
        yield from _lines(path, text, error)
        return
    yield from _whole(path, whole, pairs, is_record)


def _whole_text(path: Path) -> str:
    pieces, size = [], 0
    with _text(path) as text:
        while piece := text.read(1 << 24):
            pieces.append(piece)
            size += len(piece)
            if size > _LONGEST_DOCUMENT:
                raise DataError(
                    f"{path} has more than {_LONGEST_DOCUMENT:,} characters, and is read as a whole",
                    do="split it into several files",
                )
    return "".join(pieces)


def _whole(
    path: Path, whole: Any, pairs: list[tuple[str, Any]], is_record: Callable[[Mapping[str, Any]], bool]
) -> Iterator[Entry]:
    """Entries of a document; `pairs` of an object, because a dict would hide ids that occur twice."""
    if isinstance(whole, dict):
        if is_record(whole):
            yield "", f"{path.name}:1", whole
            return
        wrapped = [value for name, value in pairs if name in _WRAPPERS and isinstance(value, list)]
        if len(wrapped) != 1:
            yield from ((name, f"{path.name}:{name}", row) for name, row in pairs)
            return
        whole = wrapped[0]
    rows = whole if isinstance(whole, list) else [whole]
    yield from (("", f"{path.name}:{number}", row) for number, row in enumerate(rows))


def _lines(path: Path, text: str, error: Exception) -> Iterator[Entry]:
    # str.splitlines would also cut at U+2028, which JSON strings may hold.
    found = [(number, _parsed(line)) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    unread = [isinstance(row, Unusable) for _, row in found]
    # Lines of a broken document may be JSON by accident, so its beginning decides.
    if found and (all(unread) or (unread[0] and text.lstrip().startswith("["))):
        raise DataError(f"{path} is neither a JSON document nor JSON lines", got=error, do="check the file")
    yield from (("", f"{path.name}:{number}", row) for number, row in found)


def _parsed(line: str) -> Any:
    try:
        # Files that were put together bring a byte order mark each.
        return json.loads(line.lstrip("\ufeff"), parse_int=_whole_number)
    except (ValueError, RecursionError) as error:
        return Unusable("no JSON", error)


def _whole_number(digits: str) -> int | float:
    """A whole number; infinity, which no field takes, for one that Python refuses to convert (over 4,300 digits)."""
    try:
        return int(digits)
    except ValueError:
        return float(digits)


def _rows(path: Path) -> Iterator[Entry]:
    _require_file(path)
    yield from (("", f"{path.name}:{number}", row) for number, row in enumerate(TABLES[path.suffix](path)))


def read_table(
    path: Path, columns: Sequence[str], delimiter: str = ",", quoted: bool = True
) -> Iterator[tuple[int, Row | Unusable]]:
    """(line, row) of a table with a header; keys are lower-case. A row with other columns than the header is unusable.

    Args:
        columns: that the table must have, in lower case.
        quoted: whether fields may stand in quotes.

    Raises:
        DataError: the file cannot be read or has other columns.
    """
    csv.field_size_limit(_LONGEST_FIELD)
    lines = text_lines(path, newline="")
    # strict: an open quote would silently swallow rows up to the next one.
    if quoted:
        rows = csv.reader(lines, delimiter=delimiter, strict=True)
    else:
        rows = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE, strict=True)
    try:
        header = next(rows, [])
    except csv.Error as error:
        raise DataError(f"{path} has no header", got=error, expected=", ".join(columns)) from None
    names = [name.strip().lower() for name in header]
    if not set(columns) <= set(names):
        raise DataError(f"{path} has other columns", got=", ".join(header)[:200], expected=", ".join(columns))
    while True:
        begin = rows.line_num + 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield begin, Unusable("damaged row", f"lines {begin} to {rows.line_num}: {error}")
            continue
        if row:
            yield begin, _row(names, row)


def _row(names: Sequence[str], row: list[str]) -> Row | Unusable:
    # Spreadsheets add empty columns at the end.
    while len(row) > len(names) and not row[-1].strip():
        row.pop()
    if len(row) != len(names):
        return Unusable("other number of columns than the header", f"{len(row)}, not {len(names)}")
    return dict(zip(names, row))
