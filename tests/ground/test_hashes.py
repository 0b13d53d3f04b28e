"""Hashes of large files are computed once, and again for every file that is not the very same."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from megabiomed.ground import hashes
from megabiomed.ground.files import sha256_file
from megabiomed.ground.hashes import NOTES, FileHashes


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files whose content was hashed."""
    found: list[Path] = []
    monkeypatch.setattr(hashes, "sha256_file", lambda path: (found.append(path), sha256_file(path))[1])
    return found


def test_a_file_is_read_once_and_again_after_every_change_even_one_with_the_old_time(
    tmp_path: Path, read: list[Path]
) -> None:
    run, file = tmp_path / "run", tmp_path / "weights"
    run.mkdir()
    file.write_bytes(b"a" * 100)
    first = FileHashes(run, write=True).sha256(file)
    assert FileHashes(run).sha256(file) == first == sha256_file(file)
    assert len(read) == 1
    times = file.stat().st_mtime_ns
    while file.stat().st_ctime_ns == os.stat(run / NOTES).st_ctime_ns:  # a clock that has not moved since
        (run / NOTES).touch()
    file.write_bytes(b"b" * 100)  # the same size, inode and, set back, time of the content
    os.utime(file, ns=(times, times))
    assert FileHashes(run).sha256(file) == sha256_file(file) != first
    shutil.copy2(file, tmp_path / "other")
    (tmp_path / "other").replace(file)  # the same content and time in another inode
    assert FileHashes(run).sha256(file) == sha256_file(file)
    assert len(read) == 3


@pytest.mark.parametrize("damage", ["", "[1]", '{"x": ', '{"FILE": 3}', '{"FILE": {"state": [], "sha256": "wrong"}}'])
def test_damaged_notes_are_no_notes(damage: str, tmp_path: Path, read: list[Path]) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"a")
    (tmp_path / NOTES).write_text(damage.replace("FILE", str(file.resolve())))
    assert FileHashes(tmp_path, write=True).sha256(file) == sha256_file(file)
    assert FileHashes(tmp_path).sha256(file) == sha256_file(file)
    assert len(read) == 1


def test_without_a_run_folder_nothing_is_remembered_and_nothing_is_made(tmp_path: Path, read: list[Path]) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"a")
    for folder in (None, tmp_path / "gone"):
        FileHashes(folder, write=True).sha256(file)
    assert len(read) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["weights"]
