"""Rows of Arrow files as the library `datasets` keeps them: in its cache, and in folders of `save_to_disk`."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from megabiomed.corpus.parquet_rows import held_bytes, refuse_excess
from megabiomed.ground.errors import DataError
from megabiomed.ground.files import read_json

_MOST_ROWS = 64
_STATE, _SPLITS = "state.json", "dataset_dict.json"
# Places in the tables of Arrow's Message.fbs.
_MESSAGE_HEADER = 2
_DICTIONARY_DATA = 1
_BATCH_COMPRESSION = 3


def arrow_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows as Python values, streamed from a memory map; images and sound stay the bytes that the file holds.

    Raises:
        DataError: the file is missing or damaged, holds packed data or types that `datasets` does not write, or its rows
            take more than `limits_now()` allow.
    """
    found = _opened(path)
    size, held = path.stat().st_size, 0
    try:
        for batch in found.iter(_MOST_ROWS):
            batch.validate(full=True)  # offsets that point outside would be followed
            held += sum(held_bytes(column) for column in batch.columns)
            refuse_excess(path, size, held)
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(path, error) from None


def _opened(path: Path) -> Any:
    """The file as a `datasets.Dataset` that gives Arrow tables."""
    # Imported here: it takes a second, and most inputs are none of its files.
    from datasets import Dataset

    try:
        _check_plain(path)
        return Dataset.from_file(str(path)).with_format("arrow")
    except Exception as error:  # a damaged description of the columns ends in errors of any kind
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path} cannot be read as an Arrow file of `datasets`",
        got=str(error)[:200] or type(error).__name__,
        do="check the file, or write the dataset again (`Dataset.save_to_disk`)",
    )


def saved_files(folder: Path) -> list[Path]:
    """The Arrow files of a dataset that `save_to_disk` wrote, in its order.

    Raises:
        DataError: the folder holds no such dataset, or several (one a split), or names files elsewhere.
    """
    if (folder / _SPLITS).is_file():
        names = sorted(entry.parent.name for entry in folder.glob(f"*/{_STATE}"))
        raise DataError(
            f"{folder} holds one dataset for each split",
            got=", ".join(names) or "no split",
            do=f"name one of them, as {folder / (names[0] if names else 'train')}",
        )
    if not (folder / _STATE).is_file():
        raise DataError(
            f"{folder} is a folder and no dataset", expected=f"files, or a folder of `save_to_disk` with {_STATE}",
            do="name the files in it",
        )  # fmt: skip
    listed = read_json(folder / _STATE, dict).get("_data_files")
    files = [entry.get("filename") if isinstance(entry, dict) else None for entry in listed or ()]
    for name in files:
        if not isinstance(name, str) or Path(name).name != name:
            raise DataError(f"{folder / _STATE} names no file of its folder", got=repr(name)[:80], do="save it again")
    return [folder / str(name) for name in files]


def _check_plain(path: Path) -> None:
    """Refuse packed record batches: `datasets` writes none, and they unpack into memory as a whole."""
    with pa.memory_map(str(path)) as file:
        for message in pa.ipc.MessageReader.open_stream(file):
            if message.type in ("record batch", "dictionary") and _is_packed(message):
                raise ValueError(f"a packed {message.type}")


def _is_packed(message: Any) -> bool:
    """Whether a message names a compression of its body. pyarrow does not tell."""
    data = message.metadata.to_pybytes()

    def table(place: int) -> int:
        return place + int(struct.unpack_from("<I", data, place)[0])

    def field(of: int, number: int) -> int:
        """Where a field of a flatbuffers table stands; 0 for one that is left out."""
        offsets = of - struct.unpack_from("<i", data, of)[0]
        (length,) = struct.unpack_from("<H", data, offsets)
        if 4 + 2 * number >= length:
            return 0
        (offset,) = struct.unpack_from("<H", data, offsets + 4 + 2 * number)
        return of + int(offset) if offset else 0

    header = table(field(table(0), _MESSAGE_HEADER))
    if message.type == "dictionary":
        header = table(field(header, _DICTIONARY_DATA))
    return field(header, _BATCH_COMPRESSION) != 0
