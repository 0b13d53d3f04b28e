"""Build the text of a paper piece by piece, with the spans that mark its pieces: what layouts without one text share."""

from __future__ import annotations

import re
from collections.abc import Iterable

from megabiomed.corpus.records import Span

SEPARATOR = "\n\n"
_SPACE = re.compile(r"[ \t\r\n]+")
Mark = tuple[str, Span]
"""An annotation name and a span in a piece of text."""


class Composer:
    """Joins pieces by blank lines."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._length = 0
        self._spans: dict[str, list[Span]] = {}

    def append(self, text: str, kind: str, marks: Iterable[Mark] = (), attributes: dict[str, str] | None = None) -> int:
        """Add a piece under one annotation name, and what is marked in it; returns its offset. A blank piece is not added."""
        if not text.strip():
            return self._length
        if self._parts:
            self._parts.append(SEPARATOR)
            self._length += len(SEPARATOR)
        start = self._length
        self._parts.append(text)
        self._length += len(text)
        self.mark(kind, Span(start, self._length, attributes or {}))
        for name, span in marks:
            self.mark(name, Span(start + span.start, start + span.end, span.attributes))
        return start

    def mark(self, kind: str, span: Span) -> None:
        """Mark a part of the text that is there already."""
        self._spans.setdefault(kind, []).append(span)

    def finish(self) -> tuple[str, dict[str, list[Span]]]:
        """The text, and annotation name to spans sorted by start."""
        ordered = {kind: sorted(spans, key=lambda span: span.start) for kind, spans in self._spans.items()}
        return "".join(self._parts), ordered


class Inline:
    """The text of one piece, with white space collapsed as XML writes it, and marks in it."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self.length = 0
        self._marks: list[tuple[str, int, int, dict[str, str]]] = []

    def add(self, text: str | None) -> None:
        """Add text; of white space at its beginning nothing stays where some stands before it."""
        if not text:
            return
        # Nearly every text has no line ends and single spaces: looking costs less than replacing.
        if "\n" in text or "  " in text or "\t" in text or "\r" in text:
            text = _SPACE.sub(" ", text)
        if text[0] == " " and (not self._parts or self._parts[-1][-1] in " \n"):
            text = text[1:]
        if text:
            self._parts.append(text)
            self.length += len(text)

    def mark(self, kind: str, start: int, **attributes: str) -> None:
        """Mark what was added since the text had this length."""
        if self.length > start:
            self._marks.append((kind, start, self.length, attributes))

    @property
    def last(self) -> str:
        """The last character; empty at the beginning."""
        return self._parts[-1][-1] if self._parts else ""

    def finish(self) -> tuple[str, list[Mark]]:
        """The text without white space at its end, and its marks; a new piece begins after it."""
        text = "".join(self._parts).rstrip()
        cut = [
            (kind, Span(start, min(end, len(text)), held))
            for kind, start, end, held in self._marks
            if start < len(text)
        ]
        self._parts = []
        self._marks = []
        self.length = 0
        return text, cut
