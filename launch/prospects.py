"""Whether jobs that were just submitted will ever start: SLURM queues also what it never starts, and says why only then."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from megabiomed.ground.errors import LaunchError
from megabiomed.launch import scheduler
from megabiomed.launch.pending import never_starts, outside_limits
from megabiomed.launch.stage import ChainStage

_LOOK_S = (0.3, 0.7, 1.0, 1.0)
"""Pauses between the looks at the reasons, until the scheduler has considered the jobs."""
_UNSETTLED = ("None", "PartitionConfig")
"""Reasons that a job has before it was considered; the second one becomes a more exact one."""
_ABOUT_OTHERS = "DependencyNeverSatisfied"


def hopeless(ids: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Stage -> SLURM's reason and what it means, for jobs that will not start unless somebody changes something.

    Args:
        ids: stage -> job. A job that waits for others gets its reason when it is submitted, or when they are over.
    """
    found: dict[str, tuple[str, str]] = {}
    for pause in (*_LOOK_S, None):
        reasons: set[str] = set()
        for name, job_id in ids.items():
            try:
                job = scheduler.job(job_id, patient=False)
            except LaunchError:  # its jobs are queued all the same, and `status` has the reason later
                continue
            reason = job.get("Reason", "")
            reasons.add(reason)
            why = never_starts(job) if reason != _ABOUT_OTHERS else None
            # A stage that waits is told its own reason for a moment only.
            if why is not None and (name not in found or found[name][0] in _UNSETTLED):
                found[name] = reason, why
        if pause is None or not reasons.intersection(_UNSETTLED):
            break
        time.sleep(pause)
    return found


def refuse_hopeless(ids: Mapping[str, str]) -> None:
    """Refuse a chain of which a job would wait for ever.

    Raises:
        LaunchError: with SLURM's reason and a remedy.
    """
    for name, (reason, why) in hopeless(ids).items():
        raise LaunchError(f"the scheduler would never start stage {name}", got=reason.replace("_", " "), do=why)


def estimates(stages: list[ChainStage], said: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(stage, what to tell about its start); `said` is what the scheduler estimated without the stages before it."""
    names = {stage.name for stage in stages}
    waiting = [stage for stage in stages if names & set(stage.after)]
    partitions = _partitions() if waiting else {}
    for stage in stages:
        if stage not in waiting:
            yield stage.name, said.get(stage.name, "")
            continue
        given = stage.sbatch.get("partition", stage.cluster.partition)
        limit = outside_limits(partitions, str(given) if given else None, stage.nodes, stage.time)
        # A qos may lift the limit, so this is no reason to refuse it.
        yield stage.name, f"{limit}: it may wait for ever" if limit else f"after {', '.join(stage.after)}"


def _partitions() -> dict[str, dict[str, str]]:
    """Name -> fields of all partitions; empty when the scheduler does not answer."""
    try:
        text = scheduler.call("scontrol", "-o", "show", "partition", patient=False)
    except LaunchError:
        return {}
    rows = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in text.splitlines()]
    return {row["PartitionName"]: row for row in rows if "PartitionName" in row}
