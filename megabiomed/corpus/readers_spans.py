"""Decode and check S2ORC's span annotations. Real offsets are sometimes text, out of range or overlapping."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from megabiomed.corpus.records import Rejects, Span

# No offset, year or id has more digits; a longer run of them is damage.
_INTEGER = re.compile(r"-?[0-9]{1,15}")
_YEAR = re.compile(r"([0-9]{4})(?![0-9])")
# No rule asks for sentences, and there are more of them than of all other spans.
_UNUSED = frozenset({"sentence"})
_FIELD_KEYS = ("mag_field_of_study", "s2fieldsofstudy", "fieldsofstudy", "fieldsOfStudy")


def parse_annotations(value: Any, length: int, where: str, rejects: Rejects) -> dict[str, list[Span]]:
    """Decode the `annotations` object of a record.

    Args:
        value: annotation name to a list, a JSON-encoded list, or null or "" where a paper has none.
        length: characters of the text that the offsets point into.

    Returns:
        name, without underscores, to valid spans sorted by start; names without spans are left out. What is wrong is dropped
        and counted.
    """
    if not isinstance(value, dict):
        rejects.add("field: annotations missing", where, type(value).__name__)
        return {}
    decoded = {
        # `s2orc_v2` writes section_header where `s2orc` writes sectionheader.
        str(name).replace("_", ""): parse_spans(entry, length, f"{where} {name}", rejects)
        for name, entry in value.items()
        if name not in _UNUSED
    }
    return {name: spans for name, spans in decoded.items() if spans}


def first_inside(text: str, spans: Sequence[Span], entry: Span) -> str:
    """Text of the first span inside another one, on one line; empty when there is none. The spans are sorted by start."""
    place = bisect_left(spans, entry.start, key=lambda span: span.start)
    if place < len(spans) and spans[place].end <= entry.end:
        return " ".join(text[spans[place].start : spans[place].end].split())
    return ""


def parse_spans(value: Any, length: int, where: str, rejects: Rejects) -> list[Span]:
    """Decode one list of spans; see `parse_annotations`. Overlapping spans are kept and counted."""
    if value is None or value == "":
        return []
    if isinstance(value, str):  # the Datasets API writes each list as JSON text inside the record's JSON
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            rejects.add("span: list is not JSON", where, str(error))
            return []
    if not isinstance(value, list):
        if value is not None:
            rejects.add("span: list is of another type", where, type(value).__name__)
        return []
    checked = (parse_span(entry, length, where, rejects) for entry in value)
    spans = sorted((span for span in checked if span is not None), key=lambda span: (span.start, span.end))
    # Kept, because cleaning unites what it removes and an overlap does no harm there; counted, because many of them say that
    # a file's offsets are wrong.
    for earlier, later in pairwise(spans):
        if later.start < earlier.end:
            rejects.add(
                "span: overlap, kept", where, f"[{earlier.start}, {earlier.end}) and [{later.start}, {later.end})"
            )
    return spans


def parse_span(value: Any, length: int, where: str, rejects: Rejects) -> Span | None:
    """Check one `{"start", "end"[, "attributes"]}`; None, counted, when it does not mark a piece of the text."""
    if not isinstance(value, dict):
        rejects.add("span: not an object", where, type(value).__name__)
        return None
    start, end = parse_integer(value.get("start")), parse_integer(value.get("end"))
    if start is None or end is None:
        reason = "span: offset missing or not a whole number"
    elif start < 0 or end < 0:
        reason = "span: negative offset"
    elif end > length:
        reason = "span: beyond the text"
    elif start >= end:
        reason = "span: empty or reversed"
    else:
        return Span(start, end, _attributes(value, where, rejects))
    rejects.add(reason, where, f"start {value.get('start')!r}, end {value.get('end')!r}, text of {length} characters")
    return None


def parse_integer(value: Any) -> int | None:
    """An integer written as a number or as text; None for anything else, also for JSON's true and 1.0."""
    if isinstance(value, int) and not isinstance(value, bool):  # bool is a subclass of int
        return value
    if isinstance(value, str) and _INTEGER.fullmatch(value.strip()):
        return int(value)
    return None


def parse_year(value: Any) -> int | None:
    """A year written as a number, as text, or at the beginning of a date ("2011-11"); None for anything else."""
    number = parse_integer(value)
    if number is None and isinstance(value, str) and (found := _YEAR.match(value.strip())):
        number = int(found[1])
    return number


def parse_fields(value: dict[str, Any]) -> tuple[str, ...]:
    """Fields of study of a record: names, or objects with a `category`, under any of the releases' keys; sorted."""
    entries: list[Any] = next((value[key] for key in _FIELD_KEYS if isinstance(value.get(key), list)), [])
    names = (entry.get("category") if isinstance(entry, dict) else entry for entry in entries)
    return tuple(sorted({name for name in names if isinstance(name, str) and name}))


def parse_references(value: Any) -> dict[str, tuple[str, str]]:
    """Title and first author's last name of each of a parse's `bib_entries` that has both."""
    works = {}
    for name, entry in value.items() if isinstance(value, dict) else ():
        title, authors = (entry.get("title"), entry.get("authors")) if isinstance(entry, dict) else (None, None)
        first = authors[0] if isinstance(authors, list) and authors else None
        last = first.get("last") if isinstance(first, dict) else None
        if isinstance(title, str) and isinstance(last, str) and title.strip() and last.strip():
            works[name] = (" ".join(title.split()), " ".join(last.split()))
    return works


def _attributes(value: dict[str, Any], where: str, rejects: Rejects) -> dict[str, Any]:
    attributes = value.get("attributes")
    if attributes is None:
        return {}
    if not isinstance(attributes, dict):
        rejects.add("span: attributes are not an object, dropped", where, type(attributes).__name__)
        return {}
    return attributes
