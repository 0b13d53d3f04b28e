"""Arrow files of a dataset: written in one go, read through a memory map."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from megabiomed.ground.errors import DataError


def write_table(path: Path, columns: Mapping[str, list[Any]], kinds: Mapping[str, Any]) -> None:
    """Write columns of the given Arrow types."""
    table = pa.table({key: pa.array(columns[key], kinds[key]) for key in kinds})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=65536)


def read_table(path: Path) -> Any:
    """The table of a file, mapped into memory, not copied.

    Raises:
        DataError: it is missing or damaged.
    """
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is not a file", do="build the store again")  # a pipe could be waited for without end
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        table.validate()
    except (pa.ArrowException, OSError, ValueError) as error:
        said = str(error).partition("\n")[0][:200]
        raise DataError(
            f"{path} cannot be read", got=said, expected="an Arrow file", do="build the store again"
        ) from None
    return table


def flat_lists(column: Any) -> tuple[Any, Any]:
    """Values of a list column and the cumulative ends, starting with 0."""
    joined = column.combine_chunks()
    joined = joined.chunk(0) if isinstance(joined, pa.ChunkedArray) and joined.num_chunks else joined
    if not len(joined):
        return np.zeros(0, np.int64), np.zeros(1, np.int64)
    return joined.flatten().to_numpy(zero_copy_only=False), joined.offsets.to_numpy()
