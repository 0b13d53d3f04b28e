"""The records of a store of answers, as documents of windows (`data.parts`)."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from megabiomed.data.parts import Part
from megabiomed.samples.windows import AnswerWindows


class Records:
    """Documents whose paper_id is the id of a record."""

    def __init__(self, windows: AnswerWindows) -> None:
        self._windows = windows

    def parts(self, window: int) -> list[Part]:
        """See `SourceDocuments`."""
        found: list[Part] = []
        place = 0
        for record in self._windows.records(window):
            size = int(self._windows.lengths[record])
            found.append(Part(record, place, size))
            place += size
        return found

    def windows(self, document: int) -> Iterator[int]:
        """See `SourceDocuments`; none of a record that is too long for a window."""
        for place in np.flatnonzero(self._windows.order == document).tolist():
            yield int(np.searchsorted(self._windows.ends, place, side="right")) - 1

    def origin(self, document: int) -> dict[str, Any]:
        """See `SourceDocuments`."""
        return {"paper_id": str(self._windows.store.idents[document].as_py())}

    def beginning(self, document: int, tokens: int) -> list[int]:
        """See `SourceDocuments`; without the places of items."""
        store = self._windows.store
        low, high = int(store.id_ends[document]), int(store.id_ends[document + 1])
        return [int(token) for token in store.ids[low : min(high, low + tokens)] if token >= 0]

    def find(self, names: Collection[str]) -> Iterator[tuple[str, int]]:
        """See `SourceDocuments`."""
        wanted = set(names)
        for document, ident in enumerate(self._windows.store.idents.to_pylist()):
            if str(ident) in wanted:
                yield str(ident), document
