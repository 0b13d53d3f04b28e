"""The decoders of packed files behind one interface: a step takes some bytes and returns a bounded number of them."""

from __future__ import annotations

import bz2
import lzma
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import zstandard

_STEP = 1 << 20
# A block of zstd holds at most 128 KiB, and four bytes can be one: 1 KiB in is at most 32 MiB out.
_ZSTD_STEP = 1 << 10
_SKIPPABLE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18(.{4})", re.DOTALL)
"""A frame without content, with the size of what to skip (RFC 8878, 3.1.2)."""


class Damage(Exception):
    """A packed file cannot be read on.

    Attributes:
        kind: "truncated", "damaged" or "oversized".
        packing: "gzip", ...
    """

    def __init__(self, kind: str, packing: str, detail: str) -> None:
        super().__init__(detail)
        self.kind, self.packing = kind, packing


class Stream(Protocol):
    """A decoder of one stream."""

    @property
    def hungry(self) -> bool:
        """Whether it can return nothing more without more bytes."""

    @property
    def ended(self) -> bool:
        """Whether the stream has ended."""

    def step(self, data: bytes) -> tuple[bytes, bytes]:
        """(unpacked bytes, those of `data` that are still to be given, or that follow the stream)."""


class _Gzip:
    hungry = True  # it holds no input back

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    @property
    def ended(self) -> bool:
        return self._inner.eof

    def step(self, data: bytes) -> tuple[bytes, bytes]:
        unpacked = self._inner.decompress(data, _STEP)
        return unpacked, self._inner.unused_data if self._inner.eof else self._inner.unconsumed_tail


class _Buffered:
    """bzip2 and xz, whose decoders keep what they were given."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    @property
    def hungry(self) -> bool:
        return bool(self._inner.needs_input)

    @property
    def ended(self) -> bool:
        return bool(self._inner.eof)

    def step(self, data: bytes) -> tuple[bytes, bytes]:
        unpacked = self._inner.decompress(data, _STEP)
        return unpacked, self._inner.unused_data if self._inner.eof else b""


class _Zstd:
    hungry = True

    def __init__(self, window: int) -> None:
        self._inner: Any = zstandard.ZstdDecompressor(max_window_size=window).decompressobj()

    @property
    def ended(self) -> bool:
        return bool(self._inner.eof)

    def step(self, data: bytes) -> tuple[bytes, bytes]:
        unpacked: bytes = self._inner.decompress(data[:_ZSTD_STEP])
        return unpacked, (self._inner.unused_data if self._inner.eof else b"") + data[_ZSTD_STEP:]


@dataclass(frozen=True)
class Packing:
    """A format.

    Attributes:
        magic: matches the beginning of a stream.
        open: decoder of a stream, given the largest window in bytes.
        errors: what the decoder raises on damage.
        padding: bytes that may stand between two streams.
        skippable: matches a part of the file to pass over; its group is the size of what follows.
    """

    name: str
    magic: re.Pattern[bytes]
    open: Callable[[int], Stream]
    errors: tuple[type[Exception], ...]
    padding: bytes = b""
    skippable: re.Pattern[bytes] | None = None
    longest_magic: int = 10

    def begins(self, data: bytes) -> bool:
        """Whether a stream begins here."""
        return self.magic.match(data) is not None

    def to_skip(self, data: bytes) -> int:
        """Bytes to pass over here."""
        found = self.skippable.match(data) if self.skippable is not None else None
        return 8 + int(struct.unpack("<I", found[1])[0]) if found else 0


PACKINGS = (
    Packing("gzip", re.compile(rb"\x1f\x8b"), lambda window: _Gzip(), (zlib.error,), padding=b"\0"),
    Packing(
        "bzip2", re.compile(rb"BZh[1-9](1AY&SY|\x17\x72\x45\x38\x50\x90)"),
        lambda window: _Buffered(bz2.BZ2Decompressor()), (OSError, ValueError),
    ),
    Packing(
        "xz", re.compile(rb"\xfd7zXZ\0"),
        lambda window: _Buffered(lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=window)), (lzma.LZMAError,), padding=b"\0",
    ),
    Packing(
        "zstd", re.compile(rb"\x28\xb5\x2f\xfd"), _Zstd, (zstandard.ZstdError,), skippable=_SKIPPABLE
    ),
)  # fmt: skip
