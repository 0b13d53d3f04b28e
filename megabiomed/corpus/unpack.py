"""The bytes of a file that may be packed: gzip, bzip2, xz and zstd, one stream after another, in bounded memory.

A few kilobytes can be made to unpack to terabytes. Reading stops, with what was read before, where a file unpacks to far more
than packed text does. No call of a decoder returns more than some megabytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from typing_extensions import Buffer

from megabiomed.corpus.pool import count_work
from megabiomed.corpus.unpack_streams import PACKINGS, Damage, Packing
from megabiomed.ground.errors import DataError

RATIO_FROM = 1 << 26
"""Bytes from which the ratio counts: short runs of equal bytes may pack well in any file."""
# Packed bytes of a step: at 1,000 to 1, about the most that deflate reaches, 16 MiB unpacked.
_CHUNK = 1 << 14
# tar's mark stands at byte 257 of its first header block.
BEGINNING = 512
"""Bytes that tell what a file is."""
_ARCHIVES = {"zip": re.compile(rb"PK(\x03\x04|\x05\x06)"), "tar": re.compile(rb".{257}ustar[\0 ]", re.DOTALL)}


@dataclass(frozen=True)
class UnpackLimits:
    """How much a packed file may become. Plain text packs 3 to 10 times, very repetitive records about 50 times."""

    max_unpack_ratio: int = 250
    """A packed file, or the packed data of a Parquet file, is read until it is more than this many times its size."""
    max_unpacked_bytes: int = 1 << 40
    """A packed file is read until it is larger than this."""
    max_window_bytes: int = 1 << 31
    """Largest window (zstd) or dictionary (xz) of a file; a decoder holds that much memory."""

    def excess(self, packed: int, unpacked: int) -> str:
        """What is wrong with so many bytes out of so many; empty when nothing is."""
        if unpacked > self.max_unpacked_bytes:
            return f"more than {self.max_unpacked_bytes:,} bytes (max_unpacked_bytes)"
        if unpacked > RATIO_FROM and unpacked > self.max_unpack_ratio * packed:
            return f"{unpacked:,} bytes from {packed:,}, more than {self.max_unpack_ratio} times (max_unpack_ratio)"
        return ""


_DEFAULT = UnpackLimits()
_LIMITS: ContextVar[UnpackLimits] = ContextVar("unpack_limits", default=_DEFAULT)
_COUNTED: ContextVar[Path | None] = ContextVar("counted_file", default=None)


@contextmanager
def unpacking(limits: UnpackLimits, counted: Path | None = None) -> Iterator[None]:
    """Limits for all files that are read inside, whichever reader opens them.

    Args:
        counted: a file whose packed bytes are counted as work (`count_work`) when they are read.
    """
    token, counting = _LIMITS.set(limits), _COUNTED.set(counted)
    try:
        yield
    finally:
        _LIMITS.reset(token)
        _COUNTED.reset(counting)


def is_packed(path: Path) -> bool:
    """Whether a file is packed in one of the ways that are read."""
    with path.open("rb") as file:
        return _packing_of(file.read(BEGINNING)) is not None


def limits_now() -> UnpackLimits:
    """The limits of the innermost `unpacking`."""
    return _LIMITS.get()


class Unpacked(io.RawIOBase):
    """The streams of a packed file one after another: tools that work in parallel, or append, write several."""

    def __init__(self, path: Path, packing: Packing, limits: UnpackLimits) -> None:
        self._packing, self._limits = packing, limits
        self._file = path.open("rb")
        self._counted = path == _COUNTED.get()
        self._stream = packing.open(limits.max_window_bytes)
        self._begun = False
        self._rest = self._ready = b""
        self._packed = self._unpacked = 0

    def readable(self) -> bool:
        return True

    def readinto(self, target: Buffer) -> int:
        # A step may give no bytes yet, and 0 would mean the end of the file.
        while not self._ready and self._fill():
            pass
        view = memoryview(target).cast("B")
        count = min(len(view), len(self._ready))
        view[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def _fill(self) -> bool:
        """Take one step; False at the end of the file."""
        if not self._begun and not self._begin():
            return False
        data = self._rest or (self._read() if self._stream.hungry else b"")
        wanted = self._stream.hungry and not data
        try:
            self._ready, self._rest = self._stream.step(data)
        except self._packing.errors as error:
            if "memory" in str(error).lower():  # the words of both zstd and xz
                said = f"its window is larger than {self._limits.max_window_bytes:,} bytes (max_window_bytes)"
                raise Damage("oversized", self._packing.name, said) from None
            raise Damage("damaged", self._packing.name, str(error)) from None
        if self._stream.ended:
            self._begun = False
        elif wanted and not self._ready:
            raise Damage("truncated", self._packing.name, "it ends inside the compressed stream")
        self._unpacked += len(self._ready)
        # Packed bytes that were read ahead, but not unpacked yet, do not count.
        if excess := self._limits.excess(self._packed - len(self._rest), self._unpacked):
            self._ready = b""
            raise Damage("oversized", self._packing.name, f"it unpacks to {excess}")
        return True

    def _begin(self) -> bool:
        """Find the next stream; False when there is none."""
        first = self._packed == 0
        while True:
            if not first:
                self._rest = self._rest.lstrip(self._packing.padding)
            while len(self._rest) < self._packing.longest_magic and (more := self._read()):
                self._rest += more if first else more.lstrip(self._packing.padding if not self._rest else b"")
            if not self._rest:
                return False
            skip = self._packing.to_skip(self._rest)
            if not skip:
                break
            self._discard(skip)
            first = False
        if not self._packing.begins(self._rest):
            raise Damage("damaged", self._packing.name, "something else follows the compressed stream")
        # What follows the end of a stream begins the next one.
        self._stream, self._begun = self._packing.open(self._limits.max_window_bytes), True
        return True

    def _discard(self, count: int) -> None:
        while count > len(self._rest):
            count -= len(self._rest)
            self._rest = self._read()
            if not self._rest:
                raise Damage("truncated", self._packing.name, "it ends inside a frame")
        self._rest = self._rest[count:]

    def _read(self) -> bytes:
        data = self._file.read(_CHUNK)
        self._packed += len(data)
        if self._counted:
            count_work(0, len(data))
        return data

    def close(self) -> None:
        self._file.close()
        super().close()


def open_unpacked(path: Path, tar: bool = False) -> IO[bytes]:
    """The bytes of a file; gzip, bzip2, xz and zstd are known by their first bytes, not by the name.

    Args:
        tar: return the bytes of a tar archive, too.

    Reading raises `Damage` where packed data are truncated, damaged, or unpack to more than `limits_now()` allow.

    Raises:
        DataError: the file is an archive of several files, or is packed twice.
        Damage: its first bytes cannot be unpacked.
    """
    beginning = refuse_archive(path, tar)
    packing = _packing_of(beginning)
    if packing is None:
        return path.open("rb")
    unpacked = io.BufferedReader(Unpacked(path, packing, limits_now()), 1 << 20)
    try:
        # peek leaves the bytes to the reader.
        inside = unpacked.peek(BEGINNING)[:BEGINNING]
        _check_single(path, inside, tar)
        if (second := _packing_of(inside)) is not None:
            raise DataError(f"{path} is packed twice", got=f"{second.name} in {packing.name}", do="unpack it once")
    except BaseException:
        unpacked.close()
        raise
    return cast(IO[bytes], unpacked)


def _packing_of(beginning: bytes) -> Packing | None:
    return next((packing for packing in PACKINGS if packing.begins(beginning) or packing.to_skip(beginning)), None)


def refuse_archive(path: Path, tar: bool = False) -> bytes:
    """The first bytes of a file; a `DataError` when it is an archive of several files, except for tar when that is allowed."""
    with path.open("rb") as file:
        beginning = file.read(BEGINNING)
    _check_single(path, beginning, tar)
    return beginning


def is_tar(beginning: bytes) -> bool:
    """Whether a file that begins like this is a tar archive."""
    return _ARCHIVES["tar"].match(beginning) is not None


def _check_single(path: Path, beginning: bytes, tar: bool) -> None:
    for name, magic in _ARCHIVES.items():
        if magic.match(beginning) and not (tar and name == "tar"):
            raise DataError(f"{path} is a {name} archive", expected="one file", do="unpack it first")
