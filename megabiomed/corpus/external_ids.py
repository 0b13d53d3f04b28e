"""External ids of a paper under one set of names, however a release spells them and wherever in the record they stand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from megabiomed.corpus.records import Rejects

_NAMES = {
    "pmc": "pmc", "pmcid": "pmc", "pubmedcentral": "pmc", "pubmedcentralid": "pmc", "articleidpmc": "pmc",
    "pubmed": "pubmed", "pubmedid": "pubmed", "pmid": "pubmed", "articleidpmid": "pubmed",
    "doi": "doi", "articleiddoi": "doi",
    "arxiv": "arxiv", "arxivid": "arxiv",
    "acl": "acl", "aclid": "acl", "mag": "mag", "magid": "mag", "dblp": "dblp", "dblpid": "dblp",
}  # fmt: skip
"""Key in lower case without separators -> name."""
_ALL_NAMES = frozenset(_NAMES)
_CONTAINERS = frozenset({"externalids", "identifiers"})
_OUTER = frozenset({"openaccessinfo", "metadata"})
_DOI_ADDRESSES = ("https://doi.org/", "http://doi.org/", "https://dx.doi.org/", "http://dx.doi.org/", "doi:")


def parse_ids(value: Any, where: str, rejects: Rejects) -> dict[str, str]:
    """The ids of one object, or of a list of pairs as Arrow writes maps; empty ones and those of other kinds are left out.

    PMC ids lose their "PMC", DOIs the address in front of them.
    """
    entries = _pairs(value)
    if entries is None:
        rejects.add("field: external ids missing", where, type(value).__name__)
        return {}
    ids: dict[str, str] = {}
    for key, entry in entries:
        name = _NAMES.get(plain_key(key))
        if name is None or entry is None:
            continue
        # A column of numbers with gaps is a column of floats in many tables.
        if isinstance(entry, float):
            if entry != entry:  # nan: a gap
                continue
            entry = int(entry) if entry.is_integer() else entry
        if not isinstance(entry, str | int) or isinstance(entry, bool):
            rejects.add("field: external id of another type", f"{where} {key}", type(entry).__name__)
            continue
        if text := _text(name, str(entry).strip()):
            ids[name] = text
    return ids


def find_ids(value: dict[str, Any], where: str, rejects: Rejects) -> dict[str, str]:
    """The ids of a record: its own keys (`pmcid`, `doi`, ...) and its objects of ids, also those inside `metadata`.

    Of an id that is given twice, that of the object counts. A record without any is no damage.
    """
    ids: dict[str, str] = {}
    outer = (value[key] for key in _keys_among(tuple(value), _OUTER))
    for record in (value, *(held for held in outer if isinstance(held, dict))):
        keys = tuple(record)
        # `id` columns are often empty or of other kinds, so plain keys are taken only where they can be ids.
        named = {key: record[key] for key in _keys_among(keys, _ALL_NAMES)}
        own = {key: entry for key, entry in named.items() if isinstance(entry, str | int | float)}
        if own:
            ids |= parse_ids(own, where, rejects) | ids
        for key in _keys_among(keys, _CONTAINERS):
            if record[key] is not None:
                ids |= parse_ids(record[key], where, rejects)
    return ids


def first_of(value: dict[str, Any], *names: str) -> Any:
    """The value of the first of these keys that the record has, whatever the case and the separators; None without one."""
    keys = _by_plain_key(tuple(value))
    found = (value[keys[name]] for name in names if name in keys)
    return next((entry for entry in found if entry is not None), None)


# The records of a file have the same few sets of keys, so a set is looked through once and not for every record.
@lru_cache(maxsize=1024)
def _by_plain_key(keys: tuple[Any, ...]) -> dict[str, Any]:
    """The first key of each plain key."""
    return {plain_key(key): key for key in reversed(keys)}


@lru_cache(maxsize=1024)
def _keys_among(keys: tuple[Any, ...], plain: frozenset[str]) -> tuple[Any, ...]:
    return tuple(key for key in keys if plain_key(key) in plain)


def plain_key(key: Any) -> str:
    """A key in lower case without separators: `external_ids`, `externalIds` and `externalids` are one."""
    return _plain(key) if isinstance(key, str) else _plain(str(key))


@lru_cache(maxsize=1024)  # the keys of a layout are few, and come with every record
def _plain(key: str) -> str:
    return key.lower().replace("_", "").replace("-", "")


def _pairs(value: Any) -> list[tuple[Any, Any]] | None:
    if isinstance(value, str) and value.lstrip().startswith(("{", "[")):  # tables often hold objects as JSON text
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    if isinstance(value, dict):
        return list(value.items())
    return list(_listed(value)) if isinstance(value, list) else None


def _listed(entries: list[Any]) -> Iterator[tuple[Any, Any]]:
    for entry in entries:
        if isinstance(entry, tuple | list) and len(entry) == 2:
            yield entry[0], entry[1]
        elif isinstance(entry, dict):  # {"source": "PubMed", "id": "5"}
            kind = first_of(entry, "type", "source", "key", "name")
            if kind is not None:
                yield kind, first_of(entry, "value", "id")


def _text(name: str, text: str) -> str:
    if text.lower() in ("nan", "none", "null"):
        return ""
    if name == "pmc" and text[:3].upper() == "PMC":  # some releases write PMC123, others 123
        return text[3:]
    if name == "doi":
        for address in _DOI_ADDRESSES:
            if text.lower().startswith(address):
                return text[len(address) :].strip()
    return text
