"""One source is copied to a new folder, in blocks side by side, and what arrived is compared by checksums."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

from megabiomed.ground.errors import FileError
from megabiomed.ground.files import fsync_directory
from megabiomed.ground.staged import ITSELF
from megabiomed.launch.stage_in.figures import duration, size
from megabiomed.launch.stage_in.sources import Source, SourceFile

BLOCK = 16 << 20
WORKERS = 8
_REPORT_S = 10.0


class Progress:
    """Bytes that were copied and checked so far; prints a line now and then.

    Args:
        until: time.monotonic() at which copying ends with a TimeoutError.
        say: prints a line.
    """

    def __init__(self, until: float, say: Callable[[str], None]) -> None:
        self.total = self.copied = 0
        self._until, self._say = until, say
        self._began = self._said = time.monotonic()
        self._lock = Lock()

    def expect(self, count: int) -> None:
        """So many bytes more are to be copied."""
        with self._lock:
            self.total += count

    def on_time(self) -> None:
        """A TimeoutError when it is late."""
        if time.monotonic() > self._until:
            raise TimeoutError(f"the copy took longer than it may; {self._line()}")

    def add(self, count: int) -> None:
        """So many bytes were copied."""
        with self._lock:
            self.copied += count
            now = time.monotonic()
            if now - self._said < _REPORT_S:
                return
            self._said = now
        self._say(self._line())

    def _line(self) -> str:
        rate = self.copied / max(1e-9, time.monotonic() - self._began)
        left = f", {duration((self.total - self.copied) / rate)} left" if rate else ""
        return f"{size(self.copied)} of {size(self.total)} copied, {size(rate)}/s{left}"


def copy_source(
    source: Source, target: Path, pool: ThreadPoolExecutor, progress: Progress
) -> dict[str, dict[str, Any]]:
    """Copy all files into a new folder, durably; name -> `bytes`, times of both contents and `hash` of each.

    Raises:
        FileError: a file changed meanwhile, or is not what its store's manifest says, or did not arrive as it was.
        OSError: what the storage said; TimeoutError when it is late.
    """
    target.mkdir(mode=0o700)
    held = {}
    for file in source.files:
        place = target / (os.path.basename(source.path) if file.name == ITSELF else file.name)
        found = _copy(source.at(file), place, file, pool, progress)
        local = place.stat().st_mtime_ns
        held[file.name] = {"bytes": file.bytes, "mtime_ns": file.mtime_ns, "local_ns": local, "hash": found}
    fsync_directory(target)
    return held


def _copy(path: Path, place: Path, file: SourceFile, pool: ThreadPoolExecutor, progress: Progress) -> str:
    read = os.open(path, os.O_RDONLY)
    try:
        write = os.open(place, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            starts = range(0, file.bytes, BLOCK)
            # Before the first byte: a disk that is too full says so at once.
            if file.bytes:
                os.posix_fallocate(write, 0, file.bytes)
            blocks = _all(pool, lambda start: _block(read, write, start, file, progress), starts)
            os.fsync(write)
            now = os.stat(path)
            if (now.st_size, now.st_mtime_ns) != (file.bytes, file.mtime_ns):
                raise FileError(f"{path} was changed while it was copied")
            # So that it is read from the disk and not from what the kernel remembers.
            os.posix_fadvise(write, 0, 0, os.POSIX_FADV_DONTNEED)
            return _compared(path, write, file, blocks, pool, progress)
        finally:
            os.close(write)
    finally:
        os.close(read)


def _block(read: int, write: int, start: int, file: SourceFile, progress: Progress) -> bytes:
    progress.on_time()
    size_of = min(BLOCK, file.bytes - start)
    data = _read(read, start, size_of)
    view = memoryview(data)
    while view:
        view = view[os.pwrite(write, view, start + size_of - len(view)) :]
    progress.add(size_of)
    return b"" if file.sha256 else hashlib.sha256(data).digest()


def _read(descriptor: int, start: int, count: int) -> bytes:
    data = os.pread(descriptor, count, start)
    while len(data) < count:  # a network file system may give less
        more = os.pread(descriptor, count - len(data), start + len(data))
        if not more:
            raise FileError("a file became shorter while it was copied")
        data += more
    return data


def _compared(
    path: Path, copy: int, file: SourceFile, blocks: list[bytes], pool: ThreadPoolExecutor, progress: Progress
) -> str:
    """The hash of a file, after its copy was read again."""

    def hashed(start: int) -> bytes:
        progress.on_time()
        return hashlib.sha256(_read(copy, start, min(BLOCK, file.bytes - start))).digest()

    if file.sha256 is None:
        if _all(pool, hashed, range(0, file.bytes, BLOCK)) != blocks:
            raise FileError(f"the copy of {path} is not what was read", do="check the node's disk")
        return f"sha256 of blocks of {BLOCK}: {hashlib.sha256(b''.join(blocks)).hexdigest()}"
    digest = hashlib.sha256()
    for start in range(0, file.bytes, BLOCK):
        progress.on_time()
        digest.update(_read(copy, start, min(BLOCK, file.bytes - start)))
    if digest.hexdigest() != file.sha256:
        raise FileError(
            f"{path} is not what the manifest describes, or was damaged on the way",
            got=digest.hexdigest()[:16], expected=file.sha256[:16], do="check it with sha256sum; rebuild it if it differs",
        )  # fmt: skip
    return f"sha256: {file.sha256}"


def _all(pool: ThreadPoolExecutor, work: Callable[[int], bytes], starts: range) -> list[bytes]:
    """Results in order; after a failure nothing of it runs any more."""
    waiting = [pool.submit(work, start) for start in starts]
    try:
        return [future.result() for future in waiting]
    except BaseException:
        for future in waiting:
            future.cancel()
        for future in waiting:
            if not future.cancelled():
                future.exception()
        raise
