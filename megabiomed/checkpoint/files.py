"""Files that are either whole or absent: atomic writes, durable folders, hashes, and paths that cannot escape."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

from megabiomed.errors import CheckpointError


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write `data` so that a crash leaves the old file or the new one, never a part of it."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_directory(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically; a value that JSON cannot hold exactly (NaN too) is refused."""
    write_atomic(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; a missing or damaged file is a `CheckpointError` that names it."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read", got=error.strerror) from None
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged", got=f"{error}", expected="JSON") from None


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's content, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_bytes(data: bytes) -> str:
    """The SHA-256 of bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def fsync_directory(path: Path) -> None:
    """Make the names inside a folder durable. File systems that cannot sync a folder (EINVAL) are let pass."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


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


def remove_tree(folder: Path) -> None:
    """Delete a folder and all below it; one that is already gone is fine (another process may clean up too)."""
    shutil.rmtree(folder, onerror=_gone_is_fine)


def _gone_is_fine(_function: Any, _path: str, failure: Any) -> None:
    if not isinstance(failure[1], FileNotFoundError):
        raise failure[1]


def inside(folder: Path, name: str) -> Path:
    """The path of `name` below `folder`.

    Raises:
        CheckpointError: for an absolute name, one with `..`, or one that a symbolic link leads out of the folder.
    """
    pure = PurePosixPath(name)
    path = folder / pure
    if pure.is_absolute() or ".." in pure.parts or not path.resolve().is_relative_to(folder.resolve()):
        raise CheckpointError(
            f"{folder} names a file outside of itself", got=repr(name), do="do not use this folder; get a fresh copy"
        )
    return path
