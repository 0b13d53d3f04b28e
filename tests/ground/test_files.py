"""Small files are replaced whole, and a name cannot leave its folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

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
