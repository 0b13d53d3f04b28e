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

from megabiomed.checkpoint.checksums import checksums
from megabiomed.ground.errors import CheckpointError, CorruptionError
from megabiomed.ground.files import refuse_pointer

DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
"""The element types that are stored, with their names in a safetensors header."""

# Bytes at a time when a tensor is written, or read into another type or device: 16 MiB.
_CHUNK = 1 << 24
_READ = 1 << 30  # the kernel moves at most 2 GiB a call
# Pieces of rows that are shorter (bytes) are read together with what lies between them.
_SHORT = 1 << 10
# Far below the usual limit of 1024 open files; a checkpoint of many ranks has more files than that.
_OPEN_FILES = 64


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is fetched only when its turn to be written comes.

    Attributes:
        key: its name in the file.
        load: gives the values, of `shape` and `dtype`, on any device.
        checksum: what `checkpoint.checksums` must give of the values; None: nobody knows.
    """

    key: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    load: Callable[[], torch.Tensor]
    checksum: int | None = None

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
        # Offsets count from the end of the header, so it can be written before any value is loaded.
        span = [start, start + tensor.nbytes]
        header[tensor.key] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": span}
        start += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for tensor in tensors:
        values = tensor.load()
        assert (values.dtype, values.shape) == (tensor.dtype, tensor.shape), (tensor, values.dtype, values.shape)
        # As bytes, because NumPy has no bfloat16.
        raw = memoryview(values.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        for low in range(0, len(raw), _CHUNK):
            yield raw[low : low + _CHUNK]
        # After they were hashed and written: until then the memory may change.
        if tensor.checksum is not None and int(checksums([values])[0]) != tensor.checksum:
            raise CorruptionError(
                f"{tensor.key} changed in the memory of this host between its copy and its hash",
                got="another checksum", expected="that of the training state",
                do="nothing of it was committed; exclude the node and start the run again",
            )  # fmt: skip


class TensorFiles:
    """Reads parts of tensors out of safetensors files straight into memory that is already there.

    Plain reads, not a memory map: mapped pages would count against the job's memory limit until the kernel drops them, and
    a file that shrinks under a map kills the process instead of raising. The last 64 files stay open.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[Path, _OpenFile] = OrderedDict()
        self.bytes_read = 0

    def keys(self, path: Path) -> list[str]:
        """Names of the tensors in a file."""
        return list(self._file(path).entries)

    def describe(self, path: Path, key: str) -> tuple[str, tuple[int, ...]]:
        """Element type (`F32`, `BF16`, ...) and shape of one tensor, from the header alone."""
        entry = self._file(path).entry(key)
        return entry.dtype, entry.shape

    def read(self, path: Path, key: str, part: tuple[slice, ...]) -> torch.Tensor:
        """One rectangular part of one tensor in the stored element type."""
        entry = self._file(path).entry(key)
        shape = [s.stop - s.start for s in part]
        out = torch.empty(shape, dtype=entry.torch_dtype(path, key))
        self.read_into(path, key, part, out)
        return out

    def read_into(self, path: Path, key: str, part: tuple[slice, ...], out: torch.Tensor) -> None:
        """Fill `out` (any device, strides and floating type) with one part; at most 16 MiB are held besides it.

        Args:
            part: a slice with start and stop for each dimension; `out` has the shape of the part.
        """
        file = self._file(path)
        entry = file.entry(key)
        dtype = entry.torch_dtype(path, key)
        if out.device.type == "cpu" and out.dtype == dtype and not _is_narrow(entry.shape, part, dtype):
            self.bytes_read += file.read(entry.start, entry.shape, part, out)
            return
        # Other types, other devices and narrow columns go through a buffer of whole rows.
        rows = max(1, _CHUNK // (max(1, prod(entry.shape[1:])) * dtype.itemsize)) if part else 1
        for low, high in _blocks(part, rows):
            block = (slice(low, high), *(slice(0, n) for n in entry.shape[1:])) if part else ()
            held = torch.empty([s.stop - s.start for s in block], dtype=dtype)
            self.bytes_read += file.read(entry.start, entry.shape, block, held)
            if part:
                out[low - part[0].start : high - part[0].start].copy_(held[(slice(None), *part[1:])])
            else:
                out.copy_(held)

    def _file(self, path: Path) -> _OpenFile:
        if path not in self._open:
            self._open[path] = _OpenFile(path)
            if len(self._open) > _OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(path)
        return self._open[path]


@dataclass(frozen=True)
class _Entry:
    dtype: str
    shape: tuple[int, ...]
    start: int  # of the first byte in the file

    def torch_dtype(self, path: Path, key: str) -> torch.dtype:
        for dtype, name in DTYPES.items():
            if name == self.dtype:
                return dtype
        raise CheckpointError(
            f"{key} in {path} has an element type that weights do not have",
            got=self.dtype,
            expected=", ".join(DTYPES.values()),
        )


class _OpenFile:
    """A file whose header the safetensors library has checked (sizes, overlaps, holes), read by position."""

    def __init__(self, path: Path) -> None:
        self.path, self._descriptor = path, -1
        try:
            with safe_open(path, framework="pt"):
                pass
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except (SafetensorError, OSError) as error:
            if path.is_file() and os.access(path, os.R_OK):
                refuse_pointer(path)
            raise CheckpointError(f"{path} is no readable safetensors file", got=f"{error}") from None
        size = int.from_bytes(os.pread(self._descriptor, 8, 0), "little")
        header = json.loads(os.pread(self._descriptor, size, 8))
        header.pop("__metadata__", None)
        self.entries = {
            key: _Entry(value["dtype"], tuple(value["shape"]), 8 + size + value["data_offsets"][0])
            for key, value in header.items()
        }

    def entry(self, key: str) -> _Entry:
        if key not in self.entries:
            raise CheckpointError(f"{self.path} does not hold the tensor {key!r}", got=f"{len(self.entries)} others")
        return self.entries[key]

    def read(self, start: int, shape: tuple[int, ...], part: tuple[slice, ...], out: torch.Tensor) -> int:
        """Read `part` of a tensor of `shape` that begins at byte `start` into `out`; returns the number of bytes."""
        width = prod(shape[1:]) * out.element_size()
        whole_rows = all(s.stop - s.start == n for s, n in zip(part[1:], shape[1:]))
        if not part or (whole_rows and out.is_contiguous()):
            first = start + (part[0].start * width if part else 0)
            return self._fill(first, out)
        total = 0
        for row, target in zip(range(part[0].start, part[0].stop), out):
            total += self.read(start + row * width, shape[1:], part[1:], target)
        return total

    def _fill(self, start: int, out: torch.Tensor) -> int:
        raw = memoryview(out.view(-1).view(torch.uint8).numpy())
        done = 0
        while done < len(raw):
            count = os.preadv(self._descriptor, [raw[done : done + _READ]], start + done)
            if count == 0:
                raise CheckpointError(f"{self.path} became shorter while it was read", do="use another checkpoint")
            done += count
        return done

    def close(self) -> None:
        """Close it; again is fine."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        self.close()


def _is_narrow(shape: tuple[int, ...], part: tuple[slice, ...], dtype: torch.dtype) -> bool:
    """Whether the part is cut out of many short pieces of rows, which are faster to read with what lies between."""
    if len(part) < 2 or all(s.stop - s.start == n for s, n in zip(part[1:], shape[1:])):
        return False
    return (part[-1].stop - part[-1].start) * dtype.itemsize < _SHORT


def _blocks(part: tuple[slice, ...], rows: int) -> list[tuple[int, int]]:
    if not part:
        return [(0, 0)]
    return [(low, min(low + rows, part[0].stop)) for low in range(part[0].start, part[0].stop, rows)]
