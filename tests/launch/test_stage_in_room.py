"""Room for copies: files (inodes) count as bytes do, also those of copies under way, and locks go with their copies."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from support.copies import SIZE, begin, model, wanted

from megabiomed.ground.errors import FileError
from megabiomed.launch.stage_in.node import stage
from megabiomed.launch.stage_in.room import COPY, Need, make_room
from megabiomed.launch.stage_in.sources import source_of


def with_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: int) -> None:
    """A program `quota` that knows of so many files that are left."""
    (tmp_path / "tools").mkdir()
    tool = tmp_path / "tools" / "quota"
    tool.write_text(f"#!/bin/sh\necho /dev/x 0 0 0 0 3 0 {3 + files} 0\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")


def test_a_disk_without_inodes_is_refused_before_anything_is_copied_and_old_copies_make_room(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    records = [wanted(disk / "c", model(tmp_path / name)) for name in ("base", "other")]
    for number, record in enumerate(records):
        begin(tmp_path / str(number), record).wait(120)  # writes the record
    code = (
        "mount -t tmpfs -o size=64m,nr_inodes=11 tmpfs $1 && mkdir -m 700 $1/c\n"
        'node() { "$2" -m megabiomed.launch.stage_in.node "$3/$4/run" "$3/$4/logs"; }\n'
        f"node $@ 0; node $@ 1; touch -d '1 hour ago' $1/c/base-*/{COPY}; node $@ 1; ls -A $1/c"
    )
    words = ["unshare", "--mount", "bash", "-c", code, "x", disk, sys.executable, tmp_path]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("this machine allows no mounts")
    said = done.stdout + done.stderr
    assert said.count("copying 293.0 KiB") == 2, said
    assert "is read where it is: no room in " in said
    assert ": got 2 files (inodes) free, 293.0 KiB in copies, expected 4 files" in said
    left = [name for name in done.stdout.splitlines() if name.startswith(("base-", "other-", "."))]
    assert [name.rpartition("-")[0] or name for name in left] == [".lock", "other", "other"], said


def test_a_quota_of_files_counts_with_what_others_are_about_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_quota(tmp_path, monkeypatch, files=10)
    base, folder = model(tmp_path / "base"), tmp_path / "copies"
    (copy,) = stage(wanted(folder, base))["copies"]
    assert copy["local"] is not None
    with (folder / "x.lock").open("wb", buffering=0) as copying:
        fcntl.flock(copying, fcntl.LOCK_EX)
        copying.write(Need(5, 9).text())  # as somebody who begins to copy
        (folder / ".x.copying").mkdir()
        (folder / ".x.copying" / "one").touch()
        make_room(folder, "y", Need(5, 3), None)
        said = (
            rf"got 3 files \(inodes\) free, by the quota of user {os.geteuid()}, 293.0 KiB in copies, expected 4 files"
        )
        with pytest.raises(FileError, match=said):
            make_room(folder, "y", Need(5, 4), None)
        copying.seek(0)
        copying.truncate()
        copying.write(b"5")  # of an earlier release
        make_room(folder, "y", Need(5, 10), None)


def test_locks_go_with_their_copies(tmp_path: Path) -> None:
    folder, bases = tmp_path / "copies", [model(tmp_path / f"base{n}") for n in range(3)]
    for base in bases[:2]:
        assert begin(tmp_path, wanted(folder, base)).wait(120) == 0
    first = next(folder.glob(f"base0-*/{COPY}"))
    os.utime(first, times=(time.time() - 5000,) * 2)
    (folder / "never-made.lock").touch()
    assert begin(tmp_path, wanted(folder, bases[2], most=2 * SIZE + 1000)).wait(120) == 0
    kept = sorted(path.name.rpartition("-")[0] for path in folder.iterdir() if path.is_dir())
    assert kept == ["base1", "base2"]
    assert sorted(path.name.rpartition("-")[0] for path in folder.glob("*.lock")) == ["", "base1", "base2"]


def test_who_waits_for_a_lock_that_is_removed_takes_the_new_one(tmp_path: Path) -> None:
    base, folder = model(tmp_path / "base"), tmp_path / "copies"
    source = source_of(base, "init_from")
    assert source is not None
    folder.mkdir(mode=0o700)
    lock = folder / f"{source.ident}.lock"
    with lock.open("w") as removing:
        fcntl.flock(removing, fcntl.LOCK_EX)
        process = begin(tmp_path, wanted(folder, base))
        waiting = psutil.Process(process.pid)
        until = time.monotonic() + 120
        while str(lock) not in [file.path for file in waiting.open_files()]:
            assert time.monotonic() < until
            time.sleep(0.02)
        lock.unlink()
    assert process.wait(120) == 0
    assert lock.is_file()
    assert (folder / source.ident / COPY).is_file()
