"""The user's private cache folder, and a lock that processes share."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from megabiomed.ground.cache import cache_folder, locked


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "home"


def test_it_is_made_for_this_user_alone(home: Path) -> None:
    folder = cache_folder()
    assert folder == home / ".cache" / "megabiomed"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert cache_folder() == folder


def test_a_named_place_comes_first_and_a_relative_one_is_ignored(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "named"))
    assert cache_folder() == tmp_path / "named" / "megabiomed"
    monkeypatch.setenv("XDG_CACHE_HOME", "named")
    assert cache_folder() == home / ".cache" / "megabiomed"


def test_what_others_may_write_or_a_link_or_a_file_is_passed_over(home: Path, tmp_path: Path) -> None:
    (home / ".cache").mkdir(parents=True)
    folder, private = home / ".cache" / "megabiomed", tmp_path / "temporary"
    folder.mkdir()
    folder.chmod(0o777)
    found = cache_folder()
    assert found is not None
    assert found.parent == private
    folder.rmdir()
    folder.symlink_to(private)
    assert cache_folder() == found
    folder.unlink()
    folder.touch()
    assert cache_folder() == found
    found.chmod(0o722)
    assert cache_folder() is None


HOLD = """
import sys
from pathlib import Path
from megabiomed.ground.cache import locked
with locked(Path(sys.argv[1]), 0) as held:
    print(held, flush=True)
    sys.stdin.read()
"""


def test_one_process_holds_a_lock_and_its_end_frees_it(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "True\n"
    with locked(path, 0.2) as held:
        assert not held
    holder.kill()
    with locked(path, 30) as held:
        assert held
    holder.wait()
    assert path.stat().st_mode & 0o777 == 0o600
