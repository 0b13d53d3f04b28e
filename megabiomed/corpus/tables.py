"""Files whose records are rows of a table with typed columns, found by the ends of their names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any


# pyarrow is imported with the first table: it takes a tenth of a second in each worker, and most builds read none.
def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    from megabiomed.corpus.parquet_rows import parquet_rows

    return parquet_rows(path)


def _arrow_rows(path: Path) -> Iterator[dict[str, Any]]:
    from megabiomed.corpus.arrow_rows import arrow_rows

    return arrow_rows(path)


TABLES: Mapping[str, Callable[[Path], Iterator[dict[str, Any]]]] = {".parquet": _parquet_rows, ".arrow": _arrow_rows}


def with_saved(paths: Iterable[Path]) -> list[Path]:
    """The same paths, with the Arrow files in place of each folder that `Dataset.save_to_disk` wrote.

    Raises:
        DataError: a folder is none of these, or holds several splits.
    """
    from megabiomed.corpus.arrow_rows import saved_files

    return [file for path in paths for file in (saved_files(path) if path.is_dir() else [path])]
