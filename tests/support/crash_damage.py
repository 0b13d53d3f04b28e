"""What storage does to checkpoints: cut files, lost files, flipped bits, clocks set back."""

from __future__ import annotations

import os
import random
from contextlib import suppress
from pathlib import Path

from megabiomed.checkpoint.catalog import latest_valid, list_checkpoints
from megabiomed.checkpoint.marker import COMMITTED
from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.ground.errors import CheckpointError


def expected_step(checkpoints: Path) -> int:
    """The step a resume must start from: that of the newest checkpoint of which every byte is as it was written."""
    newest, _ = latest_valid(checkpoints, "hash")
    return newest.step if newest else 0


def inflict(checkpoints: Path, rng: random.Random) -> str:
    """Damage the newest checkpoint, which must then count no more, or turn the time stamps round.

    The only whole one is left alone: without any, a run that was trained before is not started over, and could not go on.
    """
    whole = _whole(checkpoints)
    if len(whole) < 2 or whole[1].step == whole[0].step:
        return "nothing to damage"
    newest = whole[0]
    kind = rng.choice(["truncated", "flipped bit", "missing", "clock set back"])
    if kind == "clock set back":
        _turn_time(checkpoints)
        return kind
    # A flipped bit in the marker's white space changes nothing; all other files are hashed to the last byte.
    file = rng.choice(sorted(p for p in newest.path.rglob("*") if p.is_file() and p.name != COMMITTED))
    if kind == "missing":
        file.unlink()
    elif kind == "truncated":
        os.truncate(file, file.stat().st_size // 2)
    else:
        content = bytearray(file.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file.write_bytes(content)
    assert expected_step(checkpoints) != newest.step, f"{file} was {kind} and the checkpoint still counts as whole"
    return kind


def _whole(checkpoints: Path) -> list[Checkpoint]:
    """The checkpoints of which every byte is as it was written, the newest first."""
    found = []
    for item in list_checkpoints(checkpoints):
        with suppress(CheckpointError):
            found.append(Checkpoint.open(item.path, "hash"))
    return found


def _turn_time(checkpoints: Path) -> None:
    """Newest folders get the oldest time stamps, as when a clock was set back between saves."""
    for age, folder in enumerate(sorted(checkpoints.iterdir())):
        for path in [*folder.rglob("*"), folder]:
            os.utime(path, (10**9 - 10**6 * age,) * 2)
