"""Which checkpoints a path means."""

from __future__ import annotations

import logging
from pathlib import Path

from megabiomed.checkpoint.catalog import latest_valid, list_checkpoints
from megabiomed.checkpoint.manifest import COMMITTED, MANIFEST
from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.ground.errors import CheckpointError

_LOG = logging.getLogger(__name__)


def newest(path: Path, hashes: bool) -> Checkpoint:
    """The checkpoint at `path`, or the newest valid one of the run there."""
    if is_checkpoint(path):
        return Checkpoint.open(path, "hash" if hashes else "size")
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    found, skipped = latest_valid(folder, "hash" if hashes else "size")
    for skip, reason in skipped:
        _LOG.warning("skipped %s: %s", skip, reason)
    if found is None:
        stages = sorted(held.parent.name for held in path.glob("*/checkpoints"))
        do = f"name one of its stages ({', '.join(stages)})" if stages else "name a checkpoint or a run folder"
        raise CheckpointError(f"there is no valid checkpoint in {folder}", do=do)
    return found


def folders(path: Path) -> list[Path]:
    """The checkpoints that a path stands for, newest first."""
    if is_checkpoint(path):
        return [path]
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    found = [item.path for item in list_checkpoints(folder)]
    if not found:
        raise CheckpointError(f"there is no checkpoint in {folder}", do="name a checkpoint or a run folder")
    return found


def is_checkpoint(path: Path) -> bool:
    """Whether a folder is a checkpoint, complete or not, rather than a folder of them."""
    return (path / MANIFEST).is_file() or (path / COMMITTED).is_file() or (path / "model").is_dir()
