"""What is said when storage is full: bytes, inodes, quotas; on real file systems that only the test's own process sees."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from megabiomed.ground.storage import Room, is_full, limits, refusal, remedy, room

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="mounting needs root")
NO_MOUNT = 77
FILL = """
import sys
from pathlib import Path
from megabiomed.checkpoint.space import check_space
from megabiomed.ground.files import make_writable, write_atomic
from megabiomed.ground.outcome import explain
place = Path(sys.argv[1])
try:
    for number in range(10000):
        write_atomic(place / f"f{number}", b"x" * int(sys.argv[2]))
except OSError as error:
    print(error.errno, explain(error, []))
for ask in (lambda: make_writable(place), lambda: check_space(place, 1, 1)):
    try:
        ask()
        print("room")
    except Exception as error:
        print(error)
"""


def in_namespace(mount: str, folder: Path, size: int) -> list[str]:
    """Fills a file system that is mounted on a folder for one process alone; what was said."""
    script = f'{{ {mount}; }} || exit {NO_MOUNT}; exec "$@"'
    words = ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-c", FILL, str(folder), str(size)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    if done.returncode == NO_MOUNT or done.stderr.startswith("unshare: "):
        pytest.skip(f"this machine allows no mounts: {done.stderr.strip()[-200:]}")
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


@NEEDS_ROOT
def test_inodes_that_are_used_up_are_told_from_bytes(tmp_path: Path) -> None:
    first, folder, checkpoint = in_namespace(f"mount -t tmpfs -o nr_inodes=12,size=64m t {tmp_path}", tmp_path, 10)
    assert first.startswith(f"{errno.ENOSPC} (2, \"error: cannot use the file or folder '")
    assert "got No space left on device: no inodes are left, though 64.0 MiB are free; make room: remove files" in first
    assert "ask for more inodes, and run the command again" in first
    assert "cannot be written: got No space left on device: no inodes are left, though 64.0 MiB are free" in folder
    assert checkpoint.endswith(
        "No space left on device: 0 files (inodes) are free, one more checkpoint takes 14: '" + f"{tmp_path}'"
    )


@NEEDS_ROOT
def test_bytes_that_are_used_up_are_no_matter_of_inodes(tmp_path: Path) -> None:
    first, folder, _ = in_namespace(f"mount -t tmpfs -o size=1m t {tmp_path}", tmp_path, 100_000)
    assert "got No space left on device; make room, and run the command again" in first
    assert "inodes" not in first + folder


@NEEDS_ROOT
@pytest.mark.skipif(shutil.which("mkfs.btrfs") is None, reason="a real quota needs btrfs-progs")
def test_a_quota_that_is_used_up_is_named_with_what_to_do(tmp_path: Path) -> None:
    image, place = tmp_path / "image", tmp_path / "place"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(128 << 20)
    mount = f"mkfs.btrfs -q {image} && mount -o loop {image} {place} && btrfs quota enable {place} >/dev/null"
    mount += f" && btrfs subvolume create {place}/s >/dev/null && btrfs qgroup limit 2M {place}/s >/dev/null && sync"
    said = in_namespace(mount, place / "s", 100_000)
    first = next(line for line in said if line.startswith(f"{errno.EDQUOT} "))
    assert "got Disk quota exceeded; your quota is used up: remove files, or ask for more, and run the" in first


def test_the_limits_of_quota_and_lfs_quota_are_read() -> None:
    # From quota(1) with --no-wrap --raw-grace, and lfs-quota(1) with -q: `*` marks what is passed, 0 is no limit.
    said = [
        "Disk quotas for user alice (uid 1001): ",
        "     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace",
        "/dev/sda1   3072*   2048    4096  1700000000     90      0     100       0",
        "     /lustre  1024       0    2048       -      10       0       0       -",
        "[9]    0   0   -  7  0  0  -",
    ]
    assert list(limits(said, "user alice")) == [
        Room(2**20, 10, ", by the quota of user alice"),
        Room(2**20, None, ", by the quota of user alice"),
    ]


def test_the_smaller_of_file_system_and_quota_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "quota"
    tool.write_text("#!/bin/sh\necho /dev/x 1000 0 1512 0 3 0 5 0\nexit 1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = room(tmp_path / "not" / "there", quotas=True)
    assert (found.size, found.files) == (512 * 1024, 2)
    assert found.lacks(2**20, 1, "a save") == (
        f"0.5 MiB are free, by the quota of user {os.geteuid()}, a save takes 1.0 MiB"
    )
    assert room(tmp_path).whose == ""
    error = OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), str(tmp_path / "f"))
    assert refusal(error) == f"Disk quota exceeded: 0.5 MiB are free, by the quota of user {os.geteuid()}"
    assert remedy(error) == "your quota is used up: remove files, or ask for more"
    assert [is_full(OSError(code, "")) for code in (errno.EDQUOT, errno.ENOSPC, errno.EIO)] == [True, True, False]
