"""What a run folder remembers of earlier starts, so that a run with a history never starts over by itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from megabiomed.checkpoint.catalog import needs_care
from megabiomed.checkpoint.fence import FENCE, of_owners
from megabiomed.config import RunConfig
from megabiomed.data.steps import RunSteps, Stretch
from megabiomed.ground.errors import CheckpointError
from megabiomed.ground.json_lines import read_objects
from megabiomed.ground.places import same_place

EVENTS, METRICS = "events.jsonl", "metrics.jsonl"
# Each is written after the checkpoint of its step was committed or read.
_KEPT_BY = ("save", "resume", "stopped", "ended", "finished")
# Have the step and the sample from which the run goes on.
_BEGINS = ("start", "resume", "rewind")
_SHOWN = 5


def read_events(folder: Path) -> Iterator[dict[str, Any]]:
    """The events of a run, the oldest first; without a line that a crash cut short, and those of starts that had lost it."""
    return (event for event in of_owners(read_objects(folder / EVENTS)) if isinstance(event.get("event"), str))


def saved_step(folder: Path) -> int:
    """The highest step that the events of a run say was kept in a checkpoint; 0 where none was."""
    steps = (event.get("step") for event in read_events(folder) if event["event"] in _KEPT_BY)
    return max((step for step in steps if isinstance(step, int)), default=0)


def reached_step(folder: Path) -> int:
    """The highest step that the events and figures of a run tell of; 0 where none does."""
    steps = (record.get("step") for record in (*read_events(folder), *read_objects(folder / METRICS)))
    return max((step for step in steps if isinstance(step, int)), default=0)


def run_steps(config: RunConfig) -> RunSteps:
    """Which samples each step of a run has read or will read, after the events in its folder.

    Without events it is that of a run which begins.
    """
    size, first_step = config.data.global_batch_size, config.train.first_step or 0
    stretches: list[Stretch] = []
    for event in read_events(config.folder):
        kind = event["event"]
        step, sample = _whole(event, "step"), _whole(event, "sample")
        after = _whole(event, "to_step") if kind == "rewind" else step
        if step is None:
            continue
        if kind not in _BEGINS or sample is None or after is None:
            stretches[-1:] = [_reached(each, step) for each in stretches[-1:]]
            continue
        # Within a start the size stays, and events of earlier releases do not have it.
        held = stretches[-1].size if kind == "rewind" and stretches else size
        stretches[-1:] = [_reached(each, step) for each in stretches[-1:]]
        stretches.append(Stretch(after, sample, _whole(event, "global_batch_size") or held, after))
    if not stretches:
        return RunSteps([Stretch(first_step, 0, size)])
    return RunSteps([*stretches[:-1], replace(stretches[-1], last=None)])


def _whole(event: dict[str, Any], key: str) -> int | None:
    """A number of steps or samples; None where a line has none there."""
    value = event.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _reached(stretch: Stretch, step: int) -> Stretch:
    return replace(stretch, last=max(stretch.last or 0, step))


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
