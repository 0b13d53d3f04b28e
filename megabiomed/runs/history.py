"""What a run folder remembers of earlier starts, so that a run with a history never starts over by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megabiomed.checkpoint.catalog import needs_care
from megabiomed.checkpoint.fence import FENCE, of_owners
from megabiomed.config import RunConfig
from megabiomed.ground.errors import CheckpointError
from megabiomed.ground.json_lines import read_objects
from megabiomed.ground.places import same_place

EVENTS, METRICS = "events.jsonl", "metrics.jsonl"
# Each is written after the checkpoint of its step was committed or read.
_KEPT_BY = ("save", "resume", "stopped", "ended", "finished")
_SHOWN = 5


def read_events(folder: Path) -> Iterator[dict[str, Any]]:
    """The events of a run, the oldest first; without a line that a crash cut short, and those of starts that had lost it."""
    return (event for event in of_owners(read_objects(folder / EVENTS)) if isinstance(event.get("event"), str))


def saved_step(folder: Path) -> int:
    """The highest step that the events of a run say was kept in a checkpoint; 0 where none was."""
    steps = (event.get("step") for event in read_events(folder) if event["event"] in _KEPT_BY)
    return max((step for step in steps if isinstance(step, int)), default=0)


def was_measured(folder: Path, step: int, kind: str) -> bool:
    """Whether metrics.jsonl has figures of a step.

    Args:
        kind: what their names begin with: "validation", "evaluation".
    """
    records = of_owners(read_objects(folder / METRICS))
    return any(record.get("step") == step and any(name.startswith(f"{kind}/") for name in record) for record in records)


def check_place(file: Path, config: RunConfig, overrides: list[str]) -> None:
    """Refuse the configuration inside a run folder that names another folder: the run was moved or copied.

    Without this, the run would begin again at step 0 in its old place, beside the checkpoints that it was meant to go on from.

    Args:
        file: that the configuration was read from.
        overrides: with a name or a folder of its own among them, another run is meant.

    Raises:
        CheckpointError: names both folders.
    """
    here = file.parent
    # Only a folder that was claimed belongs to a run; a configuration elsewhere may name any folder.
    if not (here / FENCE).is_file() or any(text.startswith(("run_dir=", "name=")) for text in overrides):
        return
    folders = [config.folder, *(config.part(name).folder for name in config.parts)]
    if not any(same_place(here, folder) for folder in folders):
        raise CheckpointError(
            f"{file} belongs to a run that was moved or copied", got=f"run folder {config.folder.absolute()}",
            expected=str(here.absolute()),
            do=f"add run_dir={here.absolute()} to go on here, or name=... to begin another run",
        )  # fmt: skip


def check_fresh(folder: Path, skipped: list[tuple[Path, str]]) -> None:
    """Refuse to begin a run at step 0 when its folder shows that it was trained before.

    Args:
        folder: of the run.
        skipped: its checkpoint folders, none of which can be opened, each with the reason.

    Raises:
        CheckpointError: a committed checkpoint fails its check, or events speak of a step that no checkpoint holds,
            or the events are gone.
    """
    kept = folder / "checkpoints"
    lost = [f"{path.name}: {reason}" for path, reason in skipped if needs_care(path)]
    if kept.is_symlink() and not kept.exists():
        lost.append(f"{kept} is a link to {kept.readlink()}, which is not there")
    # Every start writes an event before its first figure, so figures alone tell nothing about what was saved.
    if any(read_objects(folder / METRICS)) and not any(read_objects(folder / EVENTS)):
        lost.append(f"{METRICS} holds steps, but {EVENTS} is gone")
    step = saved_step(folder)
    # A run that was interrupted before its first save has nothing to lose.
    if not lost and not step:
        return
    more = [f"and {len(lost) - _SHOWN} more"] if len(lost) > _SHOWN else []
    said = [f"its events speak of step {step}"] if step else []
    raise CheckpointError(
        f"the run {folder.name} was trained before, and none of its checkpoints can be opened: it is not started over",
        got="; ".join([*lost[:_SHOWN], *more, *said]),
        expected=f"a checkpoint in {kept} that passes its check",
        do="bring the missing files back (`megabiomed checkpoint inspect` shows each folder), set checkpoint.resume to a copy "
        "elsewhere, or begin anew under another name (name=...)",
    )
