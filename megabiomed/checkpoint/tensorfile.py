"""safetensors files without a second copy in memory: written tensor by tensor, read slice by slice.

Format: 8-byte little-endian length, JSON header padded with spaces to 8 bytes, raw data without holes
(https://huggingface.co/docs/safetensors).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from megabiomed.errors import CheckpointError

DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
"""The element types that are stored, with their names in a safetensors header."""

_CHUNK = 1 << 24
_OPEN_FILES = 64


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is fetched only when its turn to be written comes.

    Attributes:
        key: its name in the file.
        load: gives the values, of `shape` and `dtype`, on any device.
    """

    key: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    load: Callable[[], torch.Tensor]

    @property
    def nbytes(self) -> int:
        """Size of the values in bytes."""
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class WrittenFile:
    """What is known of a file once it is on disk."""

    nbytes: int
    sha256: str


def write_tensors(path: Path, tensors: Sequence[LazyTensor], metadata: dict[str, str]) -> WrittenFile:
    """Write one safetensors file, holding one tensor in memory at a time, and make it durable.

    The hash is taken of the bytes on their way out, so that nothing is read again.
    """
    digest, written = hashlib.sha256(), 0
    with path.open("wb") as file:
        for data in _stream(tensors, metadata):
            digest.update(data)
            written += file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return WrittenFile(written, digest.hexdigest())


def _stream(tensors: Sequence[LazyTensor], metadata: dict[str, str]) -> Any:
    header: dict[str, Any] = {"__metadata__": metadata}
    start = 0
    for tensor in tensors:
        if tensor.key in header:
            raise CheckpointError("a tensor would be written twice into one file", got=tensor.key)
        span = [start, start + tensor.nbytes]
        header[tensor.key] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": span}
        start += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for tensor in tensors:
        values = tensor.load()
        assert (values.dtype, values.shape) == (tensor.dtype, tensor.shape), (tensor, values.dtype, values.shape)
        raw = memoryview(values.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        for low in range(0, len(raw), _CHUNK):
            yield raw[low : low + _CHUNK]


class TensorFiles:
    """Reads parts of tensors out of safetensors files, which stay memory-mapped (the last 64 of them)."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, Any] = OrderedDict()

    def keys(self, path: Path) -> list[str]:
        """Names of the tensors in a file."""
        return list(self._file(path).keys())

    def describe(self, path: Path, key: str) -> tuple[str, tuple[int, ...]]:
        """Element type (`F32`, `BF16`, ...) and shape of one tensor, from the header alone."""
        view = self._view(path, key)
        return view.get_dtype(), tuple(view.get_shape())

    def read(self, path: Path, key: str, part: tuple[slice, ...]) -> torch.Tensor:
        """One rectangular part of one tensor in the stored element type; only its pages are read from disk."""
        view = self._view(path, key)
        return view[part] if part else self._file(path).get_tensor(key)

    def _view(self, path: Path, key: str) -> Any:
        try:
            return self._file(path).get_slice(key)
        except SafetensorError as error:
            raise CheckpointError(f"{path} does not hold the tensor {key!r}", got=f"{error}") from None

    def _file(self, path: Path) -> Any:
        if path not in self._open:
            try:
                self._open[path] = safe_open(path, framework="pt")
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{path} is no readable safetensors file", got=f"{error}") from None
            if len(self._open) > _OPEN_FILES:
                self._open.popitem(last=False)
        self._open.move_to_end(path)
        return self._open[path]
