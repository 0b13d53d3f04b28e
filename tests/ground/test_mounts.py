"""Whether a folder in a container is the container's own, by what is mounted there."""

from __future__ import annotations

from pathlib import Path

import pytest

from megabiomed.ground.mounts import is_of_image

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
