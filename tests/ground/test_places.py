"""One place has many paths: parents, links and bind mounts lead to it, before and after something is there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from megabiomed.ground.places import is_below, same_place


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Names of one folder that does not exist yet."""
    (tmp_path / "lustre" / "me").mkdir(parents=True)
    (tmp_path / "scratch").symlink_to(tmp_path / "lustre" / "me")
    monkeypatch.chdir(tmp_path / "lustre")
    names = ["lustre/me/run", "scratch/run", "lustre/../lustre/me/run", "scratch/../me/run"]
    return [*(tmp_path / name for name in names), Path("me/run"), Path("../scratch/run")]


@pytest.mark.parametrize("exists", [False, True])
def test_every_path_to_a_folder_is_the_same_place(paths: list[Path], exists: bool) -> None:
    if exists:
        paths[0].mkdir()
    for path in paths:
        assert same_place(path, paths[0])
        assert is_below(path / "checkpoints", paths[0])
        assert not same_place(path, paths[0].with_name("other"))
        assert not is_below(path.with_name("run2"), paths[0])
    # The shell would follow the link before it goes up: this is another folder than the text says.
    assert not same_place(paths[0].parents[2] / "scratch" / ".." / "run", paths[0].parents[2] / "run")


def test_a_bind_mount_leads_to_the_same_place(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    one, two = tmp_path / "one", tmp_path / "two"
    (one / "run").mkdir(parents=True)
    two.mkdir()
    code = (
        "import sys; from pathlib import Path; from megabiomed.ground.places import is_below, same_place; a, b = map(Path, "
        "sys.argv[1:]); print(same_place(a / 'run', b / 'run'), same_place(a / 'new', b / 'new'), is_below(b / 'run/x', a), "
        "same_place(a / 'run', b))"
    )
    script = f'mount --bind {one} {two} || exit 0; exec {sys.executable} -c "{code}" {one} {two}'
    done = subprocess.run(["unshare", "--mount", "bash", "-c", script], capture_output=True, text=True)
    if not done.stdout:
        pytest.skip(f"no mount namespaces here: {done.stderr}")
    assert done.stdout.split() == ["True", "True", "True", "False"], done.stderr
