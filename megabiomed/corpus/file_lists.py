"""The file lists that PubMed Central ships beside its bulk packages: which licence each article has.

Beside `oa_comm_xml.PMC000xxxxxx.baseline.DATE.tar.gz` stands the list of that name with `.filelist.csv` (or
`.filelist.txt`, with tabs): "Article File, Article Citation, AccessionID, LastUpdated (...), PMID, License, Retracted".
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from megabiomed.corpus.external_ids import plain_key
from megabiomed.corpus.licences import parse_licence
from megabiomed.ground.errors import DataError

_LISTS = {".filelist.csv": ",", ".filelist.txt": "\t"}
_MOST_BYTES = 1 << 28
"""Lists of a package have some tens of megabytes; a list of all packages would not fit the memory of each worker."""


class Listed(NamedTuple):
    """What a list says of an article; empty where it says nothing."""

    licence: str
    pubmed: str


def listed(archive: Path, pmc: str) -> Listed | None:
    """The entry of an article (a PMC id without its "PMC") in the list beside its archive; None without a list or an entry.

    Raises:
        DataError: the list cannot be read, or is no such list.
    """
    return _entries(archive).get(pmc)


@lru_cache(maxsize=1)
def _entries(archive: Path) -> Mapping[str, Listed]:
    for path, delimiter in _candidates(archive):
        if path.is_file():
            return _read(path, delimiter)
    return {}


def _candidates(archive: Path) -> Iterator[tuple[Path, str]]:
    stem = archive.name.partition(".tar")[0]
    for suffix, delimiter in _LISTS.items():
        yield archive.with_name(stem + suffix), delimiter


def _read(path: Path, delimiter: str) -> dict[str, Listed]:
    if path.stat().st_size > _MOST_BYTES:
        raise DataError(
            f"{path} is too long", got=f"{path.stat().st_size:,} bytes", expected=f"at most {_MOST_BYTES:,}",
            do="keep the list of this package alone beside it",
        )  # fmt: skip
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            rows = csv.DictReader(file, delimiter=delimiter)
            names = {plain_key(name): name for name in rows.fieldnames or ()}
            if "accessionid" not in names or "license" not in names:
                raise DataError(
                    f"{path} is no file list of PubMed Central", got=", ".join(rows.fieldnames or ())[:200] or "nothing",
                    expected="columns AccessionID and License", do="download it again, or move it away",
                )  # fmt: skip
            return dict(_row(row, names) for row in rows)
    except (csv.Error, OSError) as error:
        raise DataError(f"{path} cannot be read", got=str(error), do="download it again, or move it away") from None


def _row(row: dict[str, str], names: dict[str, str]) -> tuple[str, Listed]:
    pubmed = (row.get(names.get("pmid", "")) or "").strip()
    entry = Listed(_shared(parse_licence(row[names["license"]])), pubmed if pubmed.isdigit() and pubmed != "0" else "")
    return (row[names["accessionid"]] or "").strip().removeprefix("PMC"), entry


@lru_cache(maxsize=256)
def _shared(licence: str) -> str:
    """One object for equal names, of which a list has a million."""
    return licence
