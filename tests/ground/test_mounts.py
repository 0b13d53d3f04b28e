"""Whether a folder in a container is the container's own, by what is mounted there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from support import image

import megabiomed
from megabiomed.config import container
from megabiomed.config.cluster import ClusterConfig
from megabiomed.ground.mounts import NODE_ROOT, is_of_image

# From mountinfo of a host, of bubblewrap on a folder, and of podman.
HOST = "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
FOLDER = "88 60 0:40 /images/megabiomed / rw,relatime - lustre srv:/l rw\n"
LAYER = "88 60 0:50 / / rw,relatime - overlay overlay rw,lowerdir=/x\n"
SCRATCH = "90 88 8:2 /me /scratch/a\\040me rw,relatime - xfs /dev/sdb rw\n"


@pytest.mark.parametrize(
    ("table", "place", "own"),
    [
        (HOST, "/scratch/a me/copies", False),
        (FOLDER, "/scratch/a me/copies", True),
        (FOLDER + SCRATCH, "/scratch/a me/copies", False),
        (FOLDER + SCRATCH, "/scratch/a mess", True),
        (LAYER, "/scratch/a me/copies", True),
        (LAYER + SCRATCH, "/scratch/a me", False),
        (LAYER + HOST, "/scratch", False),
        ("", "/scratch", False),
    ],
)
def test_what_is_not_mounted_is_the_containers_own(table: str, place: str, own: bool) -> None:
    assert is_of_image(Path(place), table) is own


def test_what_this_process_sees_can_be_asked() -> None:
    assert is_of_image(Path("/proc/self")) is False


def test_where_a_container_shows_the_nodes_own_root_nothing_is_the_containers_own(tmp_path: Path) -> None:
    """The node is a container itself, whose root is a folder: as a subvolume or a layer, it looks like that of an image."""
    if reason := image.missing():
        pytest.skip(reason)
    checkout = str(Path(megabiomed.__file__).resolve().parent.parent)
    seen = [word for path in (checkout, str(tmp_path)) for word in ("--bind", path, path)]
    node = [*image.words(image.make(tmp_path / "node"), *seen), "--cap-add", "ALL"]
    code = "from pathlib import Path; from megabiomed.ground.mounts import is_of_image; print(is_of_image(Path('/scratch')))"

    def said(wrap: list[str]) -> str:
        words = [*node, *container.wrap_words(ClusterConfig(wrap=wrap)), str(image.PYTHON), "-c", code]
        done = subprocess.run(words, env={**os.environ, "PYTHONPATH": checkout}, capture_output=True, text=True)
        if done.returncode and "bwrap: " in done.stderr:
            pytest.skip(f"no container in a container here: {done.stderr}")
        return done.stdout + done.stderr

    assert said(["bwrap", "--dev-bind", "/", "/"]) == "False\n"
    assert said(image.words(image.make(tmp_path / "other"), *seen)) == "True\n"
    assert said(["env"]) == "False\n"
    assert said(["env", "-u", NODE_ROOT]) == "True\n"  # what a folder that is a root looks like
