"""Where a process reads: a node's whole copy of the shared state, else the shared path."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megabiomed.ground import staged
from megabiomed.ground.staged import local


@pytest.fixture
def note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Copies a folder or a file and notes it; returns the copy."""

    def make(source: Path, **changes: Any) -> Path:
        copy = tmp_path / "node" / source.name
        copy.parent.mkdir(exist_ok=True)
        names = sorted(file.name for file in source.iterdir()) if source.is_dir() else [staged.ITSELF]
        if source.is_dir():
            copy.mkdir()
        for name in names:
            (copy / name).write_bytes((source / name).read_bytes())
        times = {name: [(source / name).stat().st_size, (source / name).stat().st_mtime_ns, (copy / name).stat().st_mtime_ns]
                 for name in names}  # fmt: skip
        lock = tmp_path / "lock"
        lock.touch()
        entry = {"source": str(source), "local": str(copy), "lock": str(lock), "files": times, "key": "k"} | changes
        (tmp_path / "n1.json").write_text(json.dumps({"copies": [entry]}))
        monkeypatch.setenv(staged.STAGED, str(tmp_path))
        monkeypatch.setenv("SLURMD_NODENAME", "n1")
        return copy

    return make


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    folder = tmp_path / "shared"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).write_text(name)
    return folder


def test_a_folder_its_files_and_a_file_alone_are_read_from_their_copies(
    note: Callable[..., Path], shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert local(shared) == shared
    copy = note(shared)
    assert (local(shared), local(shared / "a"), local(shared / "c")) == (copy, copy / "a", shared / "c")
    assert local(shared.parent) == shared.parent
    monkeypatch.chdir(shared.parent)
    assert local(Path("shared")) == local(Path("shared/../shared/")) == copy
    monkeypatch.setenv("SLURMD_NODENAME", "n2")
    assert local(shared) == shared


def test_a_file_alone_is_read_from_its_copy(note: Callable[..., Path], shared: Path) -> None:
    copy = note(shared / "a")
    assert (local(shared / "a"), local(shared / "b")) == (copy, shared / "b")


def _away(copy: Path, shared: Path) -> None:
    (copy / "a").unlink()


def _short(copy: Path, shared: Path) -> None:
    (copy / "a").write_text("")


def _other(copy: Path, shared: Path) -> None:
    os.utime(copy / "a", ns=(1, 1))


def _newer(copy: Path, shared: Path) -> None:
    os.utime(shared / "a", ns=(1, 1))


def _unlocked(copy: Path, shared: Path) -> None:
    (shared.parent / "lock").unlink()


@pytest.mark.parametrize("spoil", [_away, _short, _other, _newer, _unlocked])
def test_what_is_not_the_shared_state_is_not_read(
    note: Callable[..., Path], shared: Path, spoil: Callable[[Path, Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    copy = note(shared)
    spoil(copy, shared)
    assert local(shared) == shared
    assert caplog.text.count(f"{shared} is read where it is, without its copy {copy}: ") == 1
    told = json.loads((shared.parent / "n1.unread").read_text())
    assert told["key"] == "k"
    assert told["why"] in caplog.text


def test_a_copy_that_a_container_does_not_show_is_told_by_one_process_and_a_full_storage_does_no_harm(
    note: Callable[..., Path], shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note(shared, local="/in/another/container")
    assert local(shared) == shared
    told = shared.parent / "n1.unread"
    assert "each container has such a folder for itself" in told.read_text()
    told.write_text("of another process")
    staged._usable.cache_clear()
    assert (local(shared), told.read_text()) == (shared, "of another process")
    told.unlink()
    told.symlink_to("/proc/nowhere/full")  # nobody can write there
    staged._usable.cache_clear()
    assert local(shared) == shared


def test_a_copy_is_read_when_the_shared_storage_is_away(note: Callable[..., Path], shared: Path) -> None:
    copy = note(shared)
    (shared / "a").unlink()
    assert local(shared) == copy


def test_a_copy_that_is_being_removed_is_left_and_one_that_is_read_cannot_be_removed(
    note: Callable[..., Path], shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staged, "_PAUSE_S", 0.001)
    copy = note(shared)
    with (tmp_path / "lock").open() as remover:
        fcntl.flock(remover, fcntl.LOCK_EX)
        assert local(shared) == shared
    staged._usable.cache_clear()  # as in another process
    assert local(shared) == copy
    with (tmp_path / "lock").open() as remover, pytest.raises(BlockingIOError):
        fcntl.flock(remover, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_lock_that_was_removed_before_it_was_had_protects_nothing(
    note: Callable[..., Path], shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staged, "_PAUSE_S", 0.001)
    lock = note(shared).parent.parent / "lock"
    take = fcntl.flock

    def removed(descriptor: int, kind: int) -> None:
        monkeypatch.setattr(fcntl, "flock", take)
        lock.unlink()
        lock.touch()  # of whoever copies it anew
        take(descriptor, kind)

    monkeypatch.setattr(fcntl, "flock", removed)
    assert local(shared) != shared
    with lock.open() as remover, pytest.raises(BlockingIOError):
        take(remover, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"copies": 3}', '{"copies": [{"source": 1}]}', '{"copies": [{"source": "/s", "local": "/l"}]}']
)
def test_a_damaged_note_is_no_note(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "n1.json").write_text(text)
    monkeypatch.setenv(staged.STAGED, str(tmp_path))
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    assert local(Path("/s")) == Path("/s")
