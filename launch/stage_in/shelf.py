"""The folder of copies on one node, which all jobs of a user share.

NAME-HASH/            a whole copy, and in it COPY
.NAME-HASH.copying/   one that a process makes, or died over
NAME-HASH.lock        held alone by who makes or removes a copy, together by who reads it; holds what it will take
.lock                 held by who decides about room
"""

from __future__ import annotations

import fcntl
import os
import random
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from megabiomed.ground.errors import FileError
from megabiomed.ground.files import discard_tree, fsync_directory, read_json, write_json
from megabiomed.ground.staged import ITSELF, leads_to
from megabiomed.launch.stage_in.room import COPY, Need, copying_of, deciding, lock_of, make_room, try_lock
from megabiomed.launch.stage_in.sources import Source

Files = dict[str, dict[str, Any]]
"""By name: `bytes`, `mtime_ns` of the shared file, `local_ns` of the copy, `hash`."""
_POLL_S = 0.2
_PATIENCE = 10
"""Looks at a changed copy that somebody reads, before this process does without it."""


class Taken(NamedTuple):
    """A copy: where it is, the file of its lock, its files, and whether it was there already."""

    local: Path
    lock: Path
    files: Files
    reused: bool


class Shelf:
    """The folder; made where it is absent.

    Args:
        max_bytes: most that all copies take; None: as much as is free.

    Raises:
        FileError: it belongs to somebody else, or others may write there.
        OSError: it cannot be made.
    """

    def __init__(self, folder: Path, max_bytes: int | None) -> None:
        self.folder, self._max_bytes = folder, max_bytes
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
        # Whoever may write there chooses what the ranks compute with.
        if found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise FileError(
                f"{folder} belongs to another user, or others may write there", do="name a folder of your own"
            )

    def take(self, source: Source, copy: Callable[[Path], Files], until: float) -> Taken:
        """The copy of a source, made by `copy` if it is not there; nobody removes it before this process ends.

        Args:
            copy: fills a folder, which it makes, and says what is in it.
            until: time.monotonic() at which waiting for another process ends.

        Raises:
            FileError: there is no room, or what `copy` raises; TimeoutError: another process was too slow; OSError.
        """
        lock = lock_of(self.folder, source.ident)
        while (taken := self._held(source, copy, lock, until)) is None:
            pass
        files, reused = taken
        place = self.folder / source.ident
        alone = [file.name for file in source.files] == [ITSELF]
        return Taken(place / os.path.basename(source.path) if alone else place, lock, files, reused)

    def _held(
        self, source: Source, copy: Callable[[Path], Files], lock: Path, until: float
    ) -> tuple[Files, bool] | None:
        """A copy whose lock stays held until this process ends; None where the lock was removed meanwhile."""
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            found = self._hold(source, copy, descriptor, until)
        except BaseException:
            os.close(descriptor)
            raise
        if found is None:
            os.close(descriptor)
        return found

    def forget(self, source: Source) -> None:
        """Whoever takes a source next copies it again; not while somebody reads the copy."""
        with suppress(OSError):
            lock = lock_of(self.folder, source.ident)
            descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                if try_lock(descriptor, fcntl.LOCK_EX) and leads_to(lock, descriptor):
                    (self.folder / source.ident / COPY).unlink(missing_ok=True)
            finally:
                os.close(descriptor)

    def _hold(
        self, source: Source, copy: Callable[[Path], Files], descriptor: int, until: float
    ) -> tuple[Files, bool] | None:
        place, lock = self.folder / source.ident, lock_of(self.folder, source.ident)
        changed = 0
        while True:
            if try_lock(descriptor, fcntl.LOCK_SH):
                if not leads_to(lock, descriptor):
                    return None
                if (files := self._whole(source)) is not None:
                    os.utime(place / COPY)
                    return files, True
                changed += place.is_dir()
            if try_lock(descriptor, fcntl.LOCK_EX) and self._whole(source) is None:
                if not leads_to(lock, descriptor):  # the kernel gives up the first lock before it gives the second
                    return None
                files = self._make(source, copy, descriptor, until)
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                return files, False
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            if changed > _PATIENCE:
                raise FileError(
                    f"{place} was changed, and another job reads it", do="remove it when that job has ended"
                )
            if time.monotonic() > until:
                raise TimeoutError(f"another job did not finish its copy of {source.path} in time")
            time.sleep(_POLL_S * random.uniform(0.5, 1.5))

    def _whole(self, source: Source) -> Files | None:
        """The files of a copy, if all of them are as they were when they had been checked."""
        place = self.folder / source.ident
        try:
            files: Files = read_json(place / COPY, dict)["files"]
            for file in source.files:
                found = (place / (os.path.basename(source.path) if file.name == ITSELF else file.name)).stat()
                if (found.st_size, found.st_mtime_ns) != (file.bytes, files[file.name]["local_ns"]):
                    return None
        except (FileError, OSError, KeyError, TypeError):
            return None
        return files

    def _make(self, source: Source, copy: Callable[[Path], Files], descriptor: int, until: float) -> Files:
        place, temporary = self.folder / source.ident, copying_of(self.folder, source.ident)
        for old in (place, temporary):
            if old.is_dir():
                discard_tree(old)
        with deciding(self.folder, until):
            needed = Need(source.bytes, len(source.files) + 2)  # the folder, and COPY in it
            make_room(self.folder, source.ident, needed, self._max_bytes)
            os.ftruncate(descriptor, 0)  # of a process that died
            os.pwrite(descriptor, needed.text(), 0)
        try:
            files = copy(temporary)
            write_json(temporary / COPY, {"source": source.path, "bytes": source.bytes, "files": files})
            temporary.rename(place)
            fsync_directory(self.folder)
        except BaseException:
            if temporary.is_dir():
                discard_tree(temporary)
            raise
        finally:
            with suppress(OSError):
                os.ftruncate(descriptor, 0)
        return files
