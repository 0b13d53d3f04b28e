"""Submits the runs of a sweep one after the other; those that are done or in the queue are left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from megabiomed.ground.errors import LaunchError
from megabiomed.launch import sweep
from megabiomed.launch.again import unfinished
from megabiomed.launch.stage import ChainStage
from megabiomed.launch.submit import Job, submit_all

Plan = Callable[[list[str]], list[Job]]
"""The jobs of a run with some overrides, checked and rendered."""


def folder_of(plan: Plan) -> tuple[Path, str]:
    """Folder of a sweep and name of its run: where the run alone would have its folder.

    Raises:
        LaunchError: it is a chain of several runs, or of commands.
    """
    stages = [job.stage for job in plan([])]
    configs = [stage.config for stage in stages]
    folders = {str(config.folder) for config in configs if config is not None}
    first = configs[0]
    if first is None or None in configs or len(folders) > 1:
        raise LaunchError(
            "--sweep is for one run",
            got=f"a chain of {', '.join(stage.name for stage in stages)}",
            do="submit a run file",
        )
    return first.folder.absolute(), first.name


def planned(plan: Plan, members: Sequence[sweep.Member]) -> tuple[Path, list[list[Job]]]:
    """The folder of a sweep, and the jobs of each of its runs; every run is checked before the first is submitted."""
    folder, name = folder_of(plan)
    return folder, [plan(member.overrides(folder, name)) for member in members]


def submit_sweep(
    folder: Path, members: Sequence[sweep.Member], planned: Sequence[list[Job]], limit: int | None
) -> Iterator[str]:
    """Submit the runs; yields what to tell.

    With a limit each run waits until the one so many places before it is over, however it ends. So never more than that many
    run at once, and one that is slow or paused delays those behind it alone.

    Raises:
        LaunchError: the scheduler refused a run. Those before it stay in the queue, and the same command goes on.
    """
    sweep.note(folder, members)
    last: list[str | None] = []
    for done, (member, jobs) in enumerate(zip(members, planned)):
        before = last[-limit] if limit is not None and len(last) >= limit else None
        try:
            said, number = _submit(member, jobs, before)
        except LaunchError as error:
            raise LaunchError(
                f"{done} of {len(members)} runs of the sweep are submitted or done; {member.label} is not", got=error,
                do="mend that and type the same command again",
            ) from None  # fmt: skip
        last.append(number)
        yield said


def _submit(member: sweep.Member, jobs: list[Job], before: str | None) -> tuple[str, str | None]:
    """What to tell about a run, and the id of its last job, where it has one in the queue."""
    queued = [number for job in jobs if (number := sweep.queued_job(job.stage.folder)) is not None]
    if queued:
        return f"in the queue: {member.label}: job {queued[-1]}", queued[-1]
    if not unfinished(job.stage for job in jobs):
        return f"finished: {member.label}", None
    ids, _ = submit_all(jobs, [before] if before else [])
    waits = f" (after job {before})" if before else ""
    return f"submitted: {member.label}: job {', '.join(ids.values())}{waits}", list(ids.values())[-1]


def lines_of_plan(members: Sequence[sweep.Member], planned: Sequence[list[Job]], limit: int | None) -> list[str]:
    """What a sweep would do, a line for each run."""
    stages: list[ChainStage] = [jobs[0].stage for jobs in planned]
    at_once = f", {limit} at once" if limit else ""
    shape = f"{stages[0].nodes} nodes, {stages[0].ranks} ranks, {stages[0].time}"
    lines = [f"sweep of {len(members)} runs{at_once}; each: {shape}"]
    return lines + [
        f"  {', '.join(f'{key}={value}' for key, value in member.values.items())}: {stage.folder}"
        for member, stage in zip(members, stages)
    ]
