"""The layouts that a corpus file may have: shipped ones by name, a user's own by `package.module:attribute`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import TYPE_CHECKING

from megabiomed.ground.registry import Registry

if TYPE_CHECKING:
    from megabiomed.corpus.readers_lines import Record
    from megabiomed.corpus.records import Paper, Rejects

AUTO = "auto"
"""Look at the keys of each record."""
_MOST_KEYS = 32
_LONGEST_KEY = 40
_LEAST_LIKENESS = 0.6


@dataclass(frozen=True)
class Layout:
    """One way to write papers as JSON objects, or as rows of a table.

    Attributes:
        read: turns one record into a paper; None for a record without one, after it has been counted in the rejects.
        keys: a record with any of these keys, or with all keys of an inner tuple, is of this layout. Without keys the layout
            is read only when it is named. A key `<article>` stands for the XML element of that name.
        parts: the records of papers in a record that holds several.
        join: reads a file together with the files of its parses, for layouts that keep the two apart.
    """

    read: Callable[[Record, Rejects], Paper | None]
    keys: tuple[str | tuple[str, ...], ...] = ()
    parts: Callable[[Record], Iterable[Record]] | None = None
    join: Callable[[Path, Iterable[Path], Rejects], Iterator[Paper]] | None = None


# `auto` tries them in this order: records of the 2019 release and of doc2json also have the `paper_id` of 20200705v1.
LAYOUTS: Registry[Layout] = Registry(
    "corpus layout",
    {
        "s2orc_v2": "megabiomed.corpus.readers_api_v2:S2ORC_V2",
        "s2orc": "megabiomed.corpus.readers_api:DATASETS_API",
        "s2orc_2019": "megabiomed.corpus.readers_nested:RELEASE_2019",
        "cord19": "megabiomed.corpus.readers_toplevel:TOPLEVEL",
        "doc2json": "megabiomed.corpus.readers_nested:DOC2JSON",
        "s2orc_2020": "megabiomed.corpus.readers_2020:RELEASE_2020",
        "jats": "megabiomed.corpus.readers_jats:JATS",
        "medline": "megabiomed.corpus.readers_medline:MEDLINE",
        "bioc": "megabiomed.corpus.readers_bioc:BIOC",
        "text": "megabiomed.corpus.readers_nested:TEXT",
    },
    accepts=lambda held: isinstance(held, Layout),
    expected="a megabiomed.corpus.layouts.Layout",
)


def recognise(record: Record) -> Layout | None:
    """The shipped layout that has one of the record's keys; None when no layout has any of them."""
    for name in LAYOUTS.names():
        layout = LAYOUTS.find(name)
        if any(record.value.keys() >= _names(key) for key in layout.keys):
            return layout
    return None


def elements(fixed: Layout | None) -> frozenset[str]:
    """The XML elements that hold a paper each: those of one layout if it has any, else those of all shipped ones."""
    layouts = [LAYOUTS.find(name) for name in LAYOUTS.names()]
    wanted = _elements(fixed) if fixed is not None else set()
    return frozenset(wanted or {name for layout in layouts for name in _elements(layout)})


def _elements(layout: Layout) -> set[str]:
    return {name[1:-1] for key in layout.keys for name in _names(key) if name.startswith("<")}


def nearest(keys: Iterable[str]) -> str:
    """The shipped layout whose keys are most like these, for a message: its name and the keys that recognise it."""
    seen = [key for key in keys if isinstance(key, str)][:_MOST_KEYS]
    best, likeness = "", _LEAST_LIKENESS
    for name in LAYOUTS.names():
        for key in LAYOUTS.find(name).keys:
            wanted = _names(key)
            found = sum(max((_likeness(one, other) for other in seen), default=0.0) for one in wanted) / len(wanted)
            if found > likeness:
                best, likeness = f"{name}, which has {' and '.join(sorted(wanted))}", found
    return best or f"none; layouts are {', '.join(LAYOUTS.names())}"


def _names(key: str | tuple[str, ...]) -> set[str]:
    return {key} if isinstance(key, str) else set(key)


def _likeness(one: str, other: str) -> float:
    """0 to 1, whatever the case and the separators."""
    return SequenceMatcher(None, _plain(one), _plain(other)).ratio()


def _plain(key: str) -> str:
    return "".join(character for character in key[:_LONGEST_KEY].lower() if character.isalnum())
