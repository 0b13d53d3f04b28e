"""Files that are either whole or absent: atomic writes, durable folders, hashes, and paths that cannot escape."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar, overload

from megabiomed.ground.errors import FileError
from megabiomed.ground.storage import refusal

_LOG = logging.getLogger(__name__)
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
T = TypeVar("T")


def write_atomic(path: Path, data: bytes | str, mode: int = 0o666) -> None:
    """Write `data` so that a crash leaves the old file or the new one, never a part of it.

    Raises:
        OSError: of this path; nobody knows the temporary name beside it.
    """
    try:
        with opened_directory(path.parent) as directory:
            write_atomic_at(directory, path.name, data, mode)
    except OSError as error:
        if error.filename is None or str(error.filename).startswith(f".{path.name}."):
            error.filename = str(path)
        raise


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
        with suppress(OSError):  # the error that led here is the one to report
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


@overload
def read_json(path: Path) -> Any: ...


@overload
def read_json(path: Path, kind: type[T]) -> T: ...


def read_json(path: Path, kind: type[Any] = object) -> Any:
    """Read JSON.

    Args:
        kind: what it must hold: `dict` for an object, `list` for an array.

    Raises:
        FileError: the file is missing, is no JSON, or holds something else; names the file.
    """
    try:
        if not path.is_file() and path.exists():  # a pipe could be waited for without end
            raise FileError(f"{path} is not a file", do="give a file, not a folder")
        data = path.read_bytes()
        found = json.loads(data)
    except OSError as error:
        raise FileError(f"{path} cannot be read", got=error.strerror, do="check the path") from None
    except (ValueError, RecursionError) as error:
        refuse_pointer(path)
        raise FileError(f"{path} is damaged", got=f"{error}"[:200], expected="JSON") from None
    if not isinstance(found, kind):
        named: dict[type[Any], str] = {dict: "an object", list: "an array"}
        raise FileError(
            f"{path} is damaged", got=named.get(type(found), repr(found)[:80]), expected=named.get(kind, kind.__name__)
        )
    return found


def refuse_pointer(path: Path) -> None:
    """A `FileError` for what git leaves in place of a large file that was not fetched (a clone without git-lfs)."""
    with path.open("rb") as file:
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise FileError(
                f"{path} is a pointer of git-lfs, not the file itself",
                do="run `git lfs pull`, or download the file again",
            )


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
            got=refusal(error, folder),
            do="choose a folder on storage that this process may write",
        ) from None


def check_makeable(folder: Path) -> None:
    """Check that a folder can be made and written, and leave nothing behind.

    Raises:
        FileError: as `make_writable`.
    """
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists() or place.is_symlink())
    try:
        with tempfile.TemporaryDirectory(prefix=".writable-", dir=there):
            return
    except OSError as error:
        raise FileError(
            f"{folder} cannot be written",
            got=f"{there}: {refusal(error, there)}",
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
    except BaseException:
        discard_tree(temporary)
        raise


def discard_tree(folder: Path) -> None:
    """`remove_tree` after a failure, which stays the error that is reported: what cannot be removed is logged."""
    try:
        remove_tree(folder)
    except OSError as error:
        _LOG.warning("%s could not be removed: %s", folder, error)


def remove_tree(folder: Path) -> None:
    """Delete a folder and all below it; one that is already gone is fine (another process may clean up too)."""
    shutil.rmtree(folder, onerror=_gone_is_fine)


def _gone_is_fine(_function: Any, _path: str, failure: Any) -> None:
    if not isinstance(failure[1], FileNotFoundError):
        raise failure[1]


def inside(folder: Path, name: str) -> Path:
    """The path of `name` below `folder`.

    Symbolic links may lead to other places in the folder; in a snapshot of a Hugging Face hub cache, whose files are links,
    also to that cache's blobs (huggingface_hub, "Understand caching").

    Raises:
        FileError: for an absolute name, one with `..`, or one that a symbolic link leads out of the folder.
    """
    try:
        pure = PurePosixPath(name)
        path = folder / pure
        target = path.resolve()
        within = any(target.is_relative_to(place) for place in (folder.resolve(), *_hub_blobs(folder.resolve())))
    except (TypeError, ValueError, RuntimeError):  # no text, a zero byte, a link to itself
        raise FileError(f"{folder} names a file that cannot be", got=repr(name)[:200], do=_FRESH) from None
    if pure.is_absolute() or ".." in pure.parts or not within:
        link = f", a link to {target}" if path.is_symlink() else ""
        raise FileError(
            f"{folder} names a file outside of itself",
            got=f"{name!r}{link}",
            do="put a copy of the file in place of the link, if you trust it" if link else _FRESH,
        )
    return path


_FRESH = "do not use this folder; get a fresh copy"


def _hub_blobs(folder: Path) -> list[Path]:
    """Where the links of a snapshot lead: `models--a--b/blobs` for `models--a--b/snapshots/<commit>` and below."""
    stores = [parent.parent / "blobs" for parent in folder.parents if parent.name == "snapshots"]
    return [store for store in stores[:1] if store.is_dir() and not store.is_symlink()]
