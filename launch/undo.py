"""A submission that is refused leaves a run folder as it was: no row of `status` for something that never was a job."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from megabiomed.ground.errors import LaunchError
from megabiomed.ground.files import remove_tree, write_atomic
from megabiomed.ground.storage import is_full, refusal
from megabiomed.launch import records, scheduler

_WRITTEN = (records.JOB, records.SCRIPT, "config.yaml")


class Before:
    """What stood in a run folder before a submission wrote into it."""

    def __init__(self, run: Path) -> None:
        self._folder = run / records.SLURM
        self._texts = {name: _text(self._folder / name) for name in _WRITTEN}
        self._was_there = self._folder.exists()
        self._made = [parent for parent in (run, *run.parents) if not parent.exists()]

    def restore(self) -> None:
        """Take back what `prepare` and `submitting` wrote; the lock must still be held. What cannot be removed stays."""
        with suppress(OSError):
            if not self._was_there:
                remove_tree(self._folder)
            for name, text in self._texts.items():
                if text is not None:
                    write_atomic(self._folder / name, text)
                elif self._was_there:
                    (self._folder / name).unlink(missing_ok=True)
            for folder in self._made:
                folder.rmdir()


def restore(before: Iterable[Before]) -> None:
    """Take back what was written into several run folders."""
    for each in before:
        each.restore()


def take_back(scripts: Iterable[Path], ids: Iterable[str]) -> bool:
    """Cancel what was submitted, including a job whose id never arrived. None of the scripts was in the queue before.

    Returns:
        Whether surely nothing of it is left in the queue.
    """
    numbers, sure = list(ids), True
    try:
        queued = (scheduler.jobs_of_script(script).items() for script in scripts)
        numbers += [n for states in queued for n, state in states if state in scheduler.ACTIVE and n not in numbers]
    except LaunchError:
        sure = False
    for number in numbers:
        try:
            scheduler.call("scancel", number)
        except LaunchError:
            sure = False
    return sure


@contextmanager
def in_one_line() -> Iterator[None]:
    """Say a full disk, or a quota that is used up, in one line."""
    try:
        yield
    except OSError as error:
        said = refusal(error) if is_full(error) else error
        raise LaunchError("nothing was submitted: a run folder cannot be written", got=said) from None


def _text(file: Path) -> str | None:
    return file.read_text() if file.is_file() else None
