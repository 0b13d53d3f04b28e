"""Small files are replaced whole, and a name cannot leave its folder."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from megabiomed.ground.errors import FileError
from megabiomed.ground.files import (
    fsync_tree,
    inside,
    read_json,
    remove_tree,
    sha256_file,
    write_atomic,
    write_json,
)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomic(tmp_path / "a.json", "old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(tmp_path / "a.json", "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.json", "old")]


def test_a_value_that_json_cannot_hold_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert not list(tmp_path.iterdir())


def test_damaged_json_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"step": ')
    with pytest.raises(FileError, match=r"a\.json is damaged"):
        read_json(tmp_path / "a.json")
    with pytest.raises(FileError, match=r"b\.json cannot be read: got No such file"):
        read_json(tmp_path / "b.json")


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 9000
    write_atomic(tmp_path / "data", data)
    assert sha256_file(tmp_path / "data") == hashlib.sha256(data).hexdigest()


def test_a_whole_tree_is_synced_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "top" / "below").mkdir(parents=True)
    (tmp_path / "top" / "below" / "file").write_text("x")
    synced: list[int] = []
    monkeypatch.setattr("os.fsync", synced.append)
    fsync_tree(tmp_path / "top")
    assert len(synced) == 3
    remove_tree(tmp_path / "top")
    remove_tree(tmp_path / "top")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["/etc/passwd", "..", "a/../../b", "link/b"])
def test_a_name_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(tmp_path)
    with pytest.raises(FileError, match="outside of itself"):
        inside(tmp_path / "folder", name)
    assert inside(tmp_path / "folder", "model/a") == tmp_path / "folder" / "model" / "a"


def test_links_within_one_hub_cache_are_followed_and_no_others(tmp_path: Path) -> None:
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot = tmp_path / "models--a--b" / "snapshots" / ("0" * 40)
    for folder in (blobs, snapshot / "below", tmp_path / "models--c--d" / "blobs"):
        folder.mkdir(parents=True)
    for file in (blobs / "1f", tmp_path / "models--c--d" / "blobs" / "1f", tmp_path / "secret"):
        file.write_text("x")
    (blobs / "2f").symlink_to(tmp_path / "secret")
    (snapshot / "good").symlink_to("../../blobs/1f")
    (snapshot / "below" / "good").symlink_to("../../../blobs/1f")
    (tmp_path / "link").symlink_to(snapshot)
    for folder in (snapshot, snapshot / "below", tmp_path / "link"):
        assert inside(folder, "good").read_text() == "x"
    for number, target in enumerate(
        ["../../../models--c--d/blobs/1f", "../../../secret", "../../blobs/2f", "../../refs"]
    ):
        (snapshot / f"bad{number}").symlink_to(target)
        with pytest.raises(
            FileError, match=r"outside of itself: got .bad\d., a link to .*put a copy of the file in place"
        ):
            inside(snapshot, f"bad{number}")
    blobs.rename(tmp_path / "elsewhere")
    blobs.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileError, match="outside of itself"):
        inside(snapshot, "good")


@pytest.mark.parametrize("name", [7, None, "zero\0byte", "loop"])
def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path, name: Any) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(FileError, match="names a file that cannot be"):
        inside(tmp_path, name)


def test_json_is_read_with_a_mark_of_its_encoding_and_refused_with_its_reason(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(b"\xef\xbb\xbf{}")
    assert read_json(file, dict) == {}
    for content, reason in {
        b"[]": "got an array, expected an object",
        b"{": "is damaged",
        b"\xff": "is damaged",
        b"[" * 100_000: "is damaged",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n": "a pointer of git-lfs, not the file",
    }.items():
        file.write_bytes(content)
        with pytest.raises(FileError, match=reason):
            read_json(file, dict)
    with pytest.raises(FileError, match="is not a file; give a file"):
        read_json(tmp_path)
