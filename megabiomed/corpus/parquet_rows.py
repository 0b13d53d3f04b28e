"""Rows of a Parquet file in bounded memory, whatever its pages unpack to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from megabiomed.corpus.unpack import limits_now
from megabiomed.ground.errors import DataError

_BATCH_BYTES = 1 << 26
_MOST_ROWS = 1024


def parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows as Python values, streamed.

    Sizes that the file states are checked before anything of a row group is read. A dictionary page names a value once for
    any number of rows, which no stated size tells: what the rows hold is counted while they are read.

    Raises:
        DataError: the file is missing or damaged, or unpacks to more than `limits_now()` allow.
    """
    try:
        with pq.ParquetFile(path) as file:
            _check_groups(path, file.metadata)
            yield from _rows(path, file)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path} cannot be read as Parquet", got=str(error)[:200], do="check the file, or download it again"
        ) from None


def _check_groups(path: Path, metadata: Any) -> None:
    packed = unpacked = 0
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(column)
            packed += chunk.total_compressed_size
            unpacked += chunk.total_uncompressed_size
            # Of a list in one row no part can be read alone; a value takes two bytes of levels at least.
            if metadata.row_group(group).num_rows < chunk.num_values:
                refuse_excess(path, chunk.total_uncompressed_size, 2 * chunk.num_values)
    refuse_excess(path, packed, unpacked)


def _rows(path: Path, file: Any) -> Iterator[dict[str, Any]]:
    size, held = path.stat().st_size, 0
    for group in range(file.metadata.num_row_groups):
        for batch in file.iter_batches(_batch_rows(file.metadata.row_group(group)), [group], use_threads=False):
            held += sum(held_bytes(column) for column in batch.columns)
            refuse_excess(path, size, held)
            yield from batch.to_pylist()


def held_bytes(column: Any) -> int:
    """What the values of a column take when each is written out."""
    if "dictionary" not in str(column.type):
        return int(column.nbytes)
    return sum(len(str(value)) for value in column.to_pylist())


def _batch_rows(group: Any) -> int:
    """Rows that fit into a batch even when each of them repeats all that its row group holds."""
    largest = sum(group.column(number).total_uncompressed_size for number in range(group.num_columns))
    return max(1, min(_MOST_ROWS, _BATCH_BYTES // max(1, largest)))


def refuse_excess(path: Path, packed: int, unpacked: int) -> None:
    """Raise `DataError` where `unpacked` bytes out of `packed` are more than `limits_now()` allow."""
    if excess := limits_now().excess(packed, unpacked):
        raise DataError(
            f"{path} unpacks to too much", got=excess, do="do not use it, unless you trust where it is from"
        )
