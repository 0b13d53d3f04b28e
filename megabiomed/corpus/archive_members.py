"""The files in a tar archive, streamed in bounded memory; a header that is broken costs its file, not the archive.

The standard library's `tarfile` reads headers here. It does not walk the archive: it would end silently at a broken header,
keep every header in memory, and read extended headers of any size.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from typing_extensions import Buffer

from megabiomed.corpus.records import Rejects

_BLOCK = tarfile.BLOCKSIZE
_PIECE = 1 << 20
_LONGEST_HEADER = 1 << 20
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)


@dataclass(frozen=True)
class Member:
    """A file in an archive: its content is `size` bytes from `offset` on, and is read from `file` before the next member."""

    name: str
    offset: int
    size: int
    file: io.BufferedReader


def archive_members(file: IO[bytes], where: str, rejects: Rejects) -> Iterator[Member]:
    """Yield the regular files of an archive; links and folders are passed over.

    Counted are headers that are broken, with what follows up to the next good one, and an archive that ends inside a file.
    """
    source = _Source(file)
    name = ""
    size = None
    broken = False
    while block := source.read(_BLOCK):
        header = _header(block)
        if header is None:
            # Blocks of zeros end an archive, and may stand between archives that were joined.
            if block.strip(b"\0") and not broken:
                rejects.add("record: archive member with a broken header", where, f"byte {source.place - len(block)}")
                broken = True
            continue
        broken = False
        if header.type in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            data = source.read(min(header.size, _LONGEST_HEADER))
            source.skip(header.size - len(data) + _padding(header.size))
            name, size = _extended(header.type, data, name, size)
            continue
        held = header.size if size is None else size
        if header.type in _FILES:
            content = _Content(source, held)
            yield Member(name or header.name, source.place, held, io.BufferedReader(content, 1 << 16))
            held = content.left
        source.skip(held + _padding(header.size if size is None else size))
        if source.ended:
            rejects.add("input: truncated archive", where, f"it ends inside {name or header.name}")
        name, size = "", None


class _Source:
    """The archive's bytes, and how many of them were read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.place = 0
        self.ended = False

    def read(self, count: int) -> bytes:
        data = self._file.read(count)
        self.place += len(data)
        self.ended = self.ended or len(data) < count
        return data

    def skip(self, count: int) -> None:
        while count > 0 and (data := self.read(min(count, _PIECE))):
            count -= len(data)


class _Content(io.RawIOBase):
    def __init__(self, source: _Source, size: int) -> None:
        self._source, self.left = source, size

    def readable(self) -> bool:
        return True

    def readinto(self, target: Buffer) -> int:
        view = memoryview(target).cast("B")
        data = self._source.read(min(len(view), self.left)) if self.left else b""
        view[: len(data)] = data
        self.left = self.left - len(data) if data else 0
        return len(data)


def _header(block: bytes) -> tarfile.TarInfo | None:
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return None
    return header if header.size >= 0 else None


def _extended(kind: bytes, data: bytes, name: str, size: int | None) -> tuple[str, int | None]:
    """Name and size of the next member, as a GNU long name or the records "LENGTH KEY=VALUE" of pax say."""
    if kind == tarfile.GNUTYPE_LONGNAME:
        return data.partition(b"\0")[0].decode("utf-8", "surrogateescape"), size
    for line in data.split(b"\n"):
        key, _, value = line.partition(b" ")[2].partition(b"=")
        if key == b"path":
            name = value.decode("utf-8", "surrogateescape")
        elif key == b"size" and value.isdigit() and len(value) < 20:
            size = int(value)
    return name, size


def _padding(size: int) -> int:
    return -size % _BLOCK
