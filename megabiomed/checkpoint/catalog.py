"""The checkpoints of a run: list them, find the newest that can be trusted, remove the superfluous."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from megabiomed.checkpoint.marker import COMMITTED
from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.ground.errors import CheckpointError
from megabiomed.ground.files import fsync_directory, remove_tree

_LOG = logging.getLogger(__name__)
# `.old-<token>` marks a folder that was moved aside while its step was saved again (commit.py).
_STEP = re.compile(r"step_(\d{8,})(\.old-[\w.-]+)?")
_TEMPORARY = re.compile(r"step_\d{8,}\.tmp-([\w.-]+)")


def step_name(step: int) -> str:
    """Folder name of a checkpoint: `step_00000120`."""
    return f"step_{step:08d}"


@dataclass(frozen=True)
class Listed:
    """A folder that is, or was about to become, a checkpoint.

    Attributes:
        replaced: moved aside while the same step was saved again; counts only when its successor is not complete.
    """

    step: int
    path: Path
    replaced: bool
    committed: bool


def list_checkpoints(folder: Path) -> list[Listed]:
    """All checkpoints in a `checkpoints` folder, newest step first; committed or not, temporary ones left out.

    A link that leads nowhere is listed too: what it led to may come back.
    """
    found = []
    for path in folder.iterdir() if folder.is_dir() else []:
        match = _STEP.fullmatch(path.name)
        if match and (path.is_dir() or path.is_symlink()):
            found.append(Listed(int(match[1]), path, match[2] is not None, (path / COMMITTED).is_file()))
    # A folder goes before the one that it replaced, so the newest complete copy of a step is found first.
    return sorted(found, key=lambda item: (-item.step, item.replaced, item.path.name))


def latest_valid(
    folder: Path, verify: Literal["size", "hash"] = "size"
) -> tuple[Checkpoint | None, list[tuple[Path, str]]]:
    """The newest committed checkpoint whose manifest and files are as they were written.

    Args:
        verify: `size` compares names and sizes (milliseconds); `hash` reads every byte of the candidates.

    Returns:
        The checkpoint, or None; and each newer folder that was passed over with the reason.
    """
    skipped: list[tuple[Path, str]] = []
    for item in list_checkpoints(folder):
        try:
            return _open(item.path, verify), skipped
        except CheckpointError as error:
            skipped.append((item.path, str(error)))
    return None, skipped


def superfluous(folder: Path, keep_last: int, keep_every: int, live_token: str) -> list[Path]:
    """What retention does not ask for; nothing is removed.

    Kept: the `keep_last` newest valid checkpoints, whatever is newer than the oldest of these, and committed steps that
    are a multiple of `keep_every` (0: none). A damaged checkpoint never takes the place of a valid one, and a committed one
    that fails its check is never removed: its weights may be whole.

    Args:
        live_token: token of the live writer; temporary folders of all others belong to dead writers and go.
    """
    # 0 would remove the checkpoint that was committed a moment ago.
    assert keep_last > 0, keep_last
    listed = list_checkpoints(folder)
    oldest = _oldest_kept(listed, keep_last)
    doomed = [
        item.path
        for item in listed
        if _is_superseded(item, listed)
        # An interrupted save is worth nothing, even at a step that keep_every keeps.
        or (item.step < oldest and not (item.committed and keep_every and item.step % keep_every == 0))
    ]
    return [path for path in doomed if not needs_care(path)] + _stale_temporary(folder, live_token)


def prune(folder: Path, keep_last: int, keep_every: int, live_token: str) -> list[Path]:
    """Remove what is `superfluous`. Called by the one live writer, after a commit, or by an operator.

    COMMITTED goes first, so that a crash leaves an incomplete folder that nobody resumes from.

    Returns:
        The folders that were removed; one that could not be is logged.
    """
    return [path for path in superfluous(folder, keep_last, keep_every, live_token) if _remove(path)]


def _remove(path: Path) -> bool:
    """Remove one folder. A file held open elsewhere (NFS) must not end the training: the next call tries again."""
    try:
        (path / COMMITTED).unlink(missing_ok=True)
        # Before the files go: after a power cut, the marker must not be back in a folder that is half empty.
        if path.is_dir():
            fsync_directory(path)
        remove_tree(path)
    except OSError as error:
        _LOG.warning("%s could not be removed and stays for the next save: %s", path, error)
        return False
    return True


def _oldest_kept(listed: list[Listed], keep_last: int) -> int:
    """The step of the keep_last-th newest valid checkpoint; 0 when there are fewer."""
    found = 0
    for item in listed:
        # Damaged ones do not count, or enough of them would push out the last good checkpoint.
        found += not item.replaced and _is_valid(item.path)
        if found == keep_last:
            return item.step
    return 0


def _is_superseded(item: Listed, listed: list[Listed]) -> bool:
    """Whether the checkpoint that `item` made room for is complete."""
    return item.replaced and any(
        other.step == item.step and not other.replaced and _is_valid(other.path) for other in listed
    )


def _stale_temporary(folder: Path, live_token: str) -> list[Path]:
    found = ((path, _TEMPORARY.fullmatch(path.name)) for path in folder.iterdir()) if folder.is_dir() else ()
    # Of the live writer none is stale: its save may be under way.
    return sorted(path for path, match in found if match and match[1] != live_token)


def needs_care(path: Path) -> bool:
    """Whether a folder was committed and fails its check now.

    One small file may be gone and the weights be whole: only a person removes it.
    """
    # A link that leads nowhere may lead to a complete checkpoint once its storage is mounted again.
    return (path.is_symlink() and not path.exists()) or ((path / COMMITTED).is_file() and not _is_valid(path))


def _is_valid(path: Path) -> bool:
    try:
        # Sizes alone: this runs after each save, and hashing would read every byte of the run again.
        _open(path, "size")
    except CheckpointError:
        return False
    return True


def _open(path: Path, verify: Literal["size", "hash"]) -> Checkpoint:
    """A checkpoint whose folder has the name of its step: a renamed one would be replaced by another step's save."""
    checkpoint, match = Checkpoint.open(path, verify), _STEP.fullmatch(path.name)
    if match and int(match[1]) != checkpoint.step:
        raise CheckpointError(
            f"{path} holds another step than its name says", got=f"step {checkpoint.step}", expected=f"step {int(match[1])}",
            do=f"rename it to {step_name(checkpoint.step)}",
        )  # fmt: skip
    return checkpoint
