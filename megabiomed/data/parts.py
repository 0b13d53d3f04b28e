"""The documents of a source of samples: which pieces a window has, and in which windows a document is."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

from megabiomed.data.store import DOCUMENTS, TokenStore, origin_of
from megabiomed.data.windows import Windows


class Part(NamedTuple):
    """A piece of a document in a window.

    Attributes:
        document: number in its source.
        place: of its first token in the window.
        size: number of its tokens.
        first: number of its first token in the document.
    """

    document: int
    place: int
    size: int
    first: int = 0


class SourceDocuments(Protocol):
    """The documents of one source: papers of a token store, records of a store of questions."""

    def parts(self, window: int) -> list[Part]:
        """The pieces in a window, in their order."""

    def windows(self, document: int) -> Iterable[int]:
        """Every window with a piece of a document."""

    def origin(self, document: int) -> dict[str, Any]:
        """Where a document comes from; at least `paper_id`."""

    def beginning(self, document: int, tokens: int) -> list[int]:
        """The first token ids of a document."""

    def find(self, names: Collection[str]) -> Iterator[tuple[str, int]]:
        """(name, document) of every document that has one of these names."""


class Papers:
    """The papers of a token store."""

    def __init__(self, store: TokenStore, windows: Windows) -> None:
        self._store, self._windows = store, windows

    def parts(self, window: int) -> list[Part]:
        """See `SourceDocuments`."""
        found: list[Part] = []
        place = 0
        for document, low, high in self._windows.pieces(window):
            found.append(Part(document, place, high - low, low - self._store.document_bounds(document)[0]))
            place += high - low
        return found

    def windows(self, document: int) -> Iterator[int]:
        """See `SourceDocuments`."""
        return (window for window, _ in self._windows.places(document))

    def origin(self, document: int) -> dict[str, Any]:
        """See `SourceDocuments`."""
        return self._store.provenance(document)

    def beginning(self, document: int, tokens: int) -> list[int]:
        """See `SourceDocuments`."""
        low, high = self._store.document_bounds(document)
        return [int(token) for token in self._store.tokens(low, min(high, low + tokens))]

    def find(self, names: Collection[str]) -> Iterator[tuple[str, int]]:
        """A name is a paper_id or an external id, such as PMC123 or the number of PubMed."""
        # Searching a line for bytes takes a fraction of the time of parsing it, so only lines that contain a name are
        # parsed; they may still be about another paper.
        wanted = [(name, json.dumps(name.removeprefix("PMC"), ensure_ascii=False)[1:-1].encode()) for name in names]
        with (self._store.path / DOCUMENTS).open("rb") as file:
            for number, line in enumerate(file):
                for name, text in wanted:
                    if text in line and _is_named(origin_of(line, self._store.path, number), name):
                        yield name, number


def _is_named(provenance: dict[str, Any], name: str) -> bool:
    ids = provenance.get("ids") or {}
    if name.startswith("PMC"):
        return name in (str(provenance["paper_id"]), f"PMC{ids.get('pmc')}")
    return name == str(provenance["paper_id"]) or name in (ids.get(key) for key in ("pubmed", "doi", "arxiv"))
