"""Tells the trackers of a run that is over what they were not told while it ran."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from megabiomed.checkpoint.locate import locate
from megabiomed.checkpoint.uses import SAVED
from megabiomed.config import RunConfig
from megabiomed.ground.errors import DataError, UserError
from megabiomed.ground.secrets import masked
from megabiomed.runs.history import EVENTS, METRICS, read_events
from megabiomed.runs.kinds import part_run, read_run
from megabiomed.runs.tracking.base import find_trackers
from megabiomed.runs.tracking.sender import Sender
from megabiomed.runs.tracking.told import Told

_STATUS = {"finished": "FINISHED", "stopped": "KILLED", "ended": "KILLED", "failed": "FAILED"}
"""By the last event of a start that is over."""


def tell_rest(path: Path) -> dict[str, str]:
    """What each tracker of a run, or of each stage of an alignment, was told now, by the name of the tracker.

    Raises:
        DataError: the folder holds no run, or one whose last start is not over.
        UserError: a tracker is still away.
    """
    folder = locate(path).expect(SAVED).run
    file = folder / "config.yaml" if folder is not None else None
    if folder is None or file is None or not file.is_file():
        raise DataError(f"{path} holds no run that was started", do="give the folder of a run")
    found = {}
    for config in _runs(read_run(str(file), [f"run_dir={folder}"])):
        for kind, make in find_trackers(config.tracking).items():
            told = Told(config.folder, kind)
            name = str(getattr(make, "name", kind)) + (f", {config.folder.name}" if config.folder != folder else "")
            if not told.left(EVENTS, METRICS):
                found[name] = "was told everything before"
                continue
            ending = _ending(config.folder)
            try:
                Sender(kind, make, config, print).tell(ending)
            except Exception as error:  # a tracker may be anybody's code
                raise UserError(
                    f"{name} was not told everything", got=masked(str(error)), do="try again when it answers"
                ) from error
            found[name] = "is told everything now"
    if not found:
        raise DataError(f"{path} is of a run without trackers", do="name some: tracking.kind=mlflow")
    return found


def _runs(config: RunConfig) -> Iterator[RunConfig]:
    """The run, or the runs of its parts that were started."""
    runs = [part_run(config, part) for part in config.parts] or [config]
    return (run for run in runs if (run.folder / EVENTS).is_file())


def _ending(folder: Path) -> str:
    last = [event["event"] for event in read_events(folder)][-1:]
    if not last or last[0] not in _STATUS:
        raise DataError(
            f"the last start of {folder} is not over",
            got=f"last event: {last[0]}" if last else "no event",
            do="wait for its end; if it was killed, start it again, which tells the trackers as well",
        )
    return _STATUS[last[0]]
