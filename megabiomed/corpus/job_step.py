"""The jobs of a step as one step of a datatrove pipeline: task `rank` does job `rank`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from megabiomed.corpus.job_folder import JobFolder
from megabiomed.corpus.pool import counting
from megabiomed.processes.local import die_with_parent


class JobStep:
    """Calls `function` on a job; what comes of it goes into the folder, because an executor returns nothing.

    Args:
        function: a module's function that does nothing again that is done already: an executor may repeat a task.
        leave_with_parent: end when the process that started this one ends; for tasks on the machine of the build.
    """

    def __init__(
        self, function: Callable[[Any], Any], jobs: Sequence[Any], folder: JobFolder, leave_with_parent: bool = False
    ) -> None:
        self.function, self.jobs = function, jobs
        self.folder = folder
        self.leave_with_parent = leave_with_parent

    def __call__(self, _data: object, rank: int, _world_size: int) -> None:
        """Do one job (datatrove's interface of a step)."""
        if self.leave_with_parent:
            die_with_parent()
            self.folder.claim(rank)
        note = self.folder.note(rank)
        try:
            with counting(note.add):
                result = self.function(self.jobs[rank])
            note.write()
            self.folder.finish(rank, result)
        except Exception as error:
            self.folder.fail(rank, error)
            raise

    def __repr__(self) -> str:
        return f"{self.function.__name__} of {len(self.jobs)} jobs"


class DoneByResult:
    """Mixed into an executor: a task is completed when its job has a result.

    datatrove's own file of completion is written after the result; a crash between the two must not lead to other work.
    """

    folder: JobFolder

    def is_rank_completed(self, rank: int) -> bool:
        """Whether the job of a task has a result."""
        return self.folder.has(rank)

    def get_incomplete_ranks(self, ranks: Iterable[int] | None = None, skip_completed: bool | None = None) -> list[int]:
        """Tasks whose jobs have none, of `ranks` or of all."""
        done = self.folder.done()
        return [rank for rank in (range(self.folder.count) if ranks is None else ranks) if rank not in done]
