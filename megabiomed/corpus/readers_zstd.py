"""A zstd file as a stream of bytes; a file that ends inside a frame is an error, as it is with gzip."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import zstandard
from typing_extensions import Buffer

MAGIC = b"\x28\xb5\x2f\xfd"
_CHUNK = 1 << 16


class _Frames(io.RawIOBase):
    """The frames of a file one after another: compressors that work in parallel write several.

    zstandard's own stream reader takes the end of the file inside a frame for the end of the data.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._frame: Any = None
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, target: Buffer) -> int:
        # A chunk may give no bytes yet, and 0 would mean the end of the stream.
        while not self._ready and self._fill():
            pass
        view = memoryview(target)
        count = min(len(view), len(self._ready))
        view[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def _fill(self) -> bool:
        # What follows the end of a frame begins the next one.
        rest = self._frame.unused_data if self._frame is not None and self._frame.eof else b""
        if rest or self._frame is None or self._frame.eof:
            data = rest or self._file.read(_CHUNK)
            if not data:
                return False
            # `zstd --long=31` looks back over 2 GiB; the decoder's own limit is 128 MiB.
            self._frame = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
        else:
            data = self._file.read(_CHUNK)
            if not data:
                raise EOFError("the file ends inside a frame")
        self._ready = self._frame.decompress(data)
        return True

    def close(self) -> None:
        self._file.close()
        super().close()


def open_zstd(path: Path) -> io.BufferedReader:
    """Open a .zst file for reading; reading raises EOFError when it is truncated and ZstdError when it is damaged."""
    return io.BufferedReader(_Frames(path), 1 << 20)
