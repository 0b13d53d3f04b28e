"""Files that are either whole or absent: atomic writes, durable folders, hashes, and paths that cannot escape."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from megabiomed.ground.errors import FileError


def write_atomic(path: Path, data: bytes | str, mode: int = 0o666) -> None:
    """Write `data` so that a crash leaves the old file or the new one, never a part of it."""
    with opened_directory(path.parent) as directory:
        write_atomic_at(directory, path.name, data, mode)


def write_atomic_at(directory: int, name: str, data: bytes | str, mode: int = 0o666) -> None:
    """`write_atomic` into an open folder: into that very folder, whatever its path leads to by now."""
    temporary = f".{name}.{secrets.token_hex(4)}"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode, dir_fd=directory)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=directory)
        raise
    _fsync_names(directory)


@contextmanager
def opened_directory(path: Path) -> Iterator[int]:
    """A descriptor of a folder, which goes on naming that folder after a rename or a removal."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically; a value that JSON cannot hold exactly (NaN too) is refused."""
    write_atomic(path, json_text(value))


def json_text(value: Any) -> str:
    """Indented JSON of a value; one that JSON cannot hold exactly (NaN too) is refused."""
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def read_json(path: Path) -> Any:
    """Read JSON; a missing or damaged file is a `FileError` that names it."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise FileError(f"{path} cannot be read", got=error.strerror) from None
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path} is damaged", got=f"{error}", expected="JSON") from None


def make_writable(folder: Path) -> None:
    """Make a folder and try to write into it, so that a run does not find out hours later that it cannot save.

    Raises:
        FileError: it cannot be made, or is read-only, full or over quota.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / ".writable", b"x")
        (folder / ".writable").unlink(missing_ok=True)
    except OSError as error:
        raise FileError(
            f"{folder} cannot be written",
            got=error.strerror,
            do="choose a folder on storage that this process may write",
        ) from None


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's content, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_bytes(data: bytes) -> str:
    """The SHA-256 of bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def fsync_directory(path: Path) -> None:
    """Make the names inside a folder durable. File systems that cannot sync a folder (EINVAL) are let pass."""
    with opened_directory(path) as descriptor:
        _fsync_names(descriptor)


def _fsync_names(directory: int) -> None:
    try:
        os.fsync(directory)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


def fsync_tree(folder: Path) -> None:
    """Make every file and every folder below (and including) `folder` durable."""
    for root, _, names in os.walk(folder):
        for name in names:
            descriptor = os.open(Path(root) / name, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        fsync_directory(Path(root))


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` to write into; takes its name when all went well, and is removed otherwise."""
    temporary = folder.with_name(f".{folder.name}.tmp-{secrets.token_hex(4)}")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        fsync_tree(temporary)
        temporary.rename(folder)
        fsync_directory(folder.parent)
    finally:
        if temporary.exists():
            remove_tree(temporary)


def remove_tree(folder: Path) -> None:
    """Delete a folder and all below it; one that is already gone is fine (another process may clean up too)."""
    shutil.rmtree(folder, onerror=_gone_is_fine)


def _gone_is_fine(_function: Any, _path: str, failure: Any) -> None:
    if not isinstance(failure[1], FileNotFoundError):
        raise failure[1]


def inside(folder: Path, name: str) -> Path:
    """The path of `name` below `folder`.

    Raises:
        FileError: for an absolute name, one with `..`, or one that a symbolic link leads out of the folder.
    """
    pure = PurePosixPath(name)
    path = folder / pure
    if pure.is_absolute() or ".." in pure.parts or not path.resolve().is_relative_to(folder.resolve()):
        raise FileError(
            f"{folder} names a file outside of itself", got=repr(name), do="do not use this folder; get a fresh copy"
        )
    return path
