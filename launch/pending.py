"""What SLURM's reasons for a waiting job mean: which of them end by themselves, and what to do about the others."""

from __future__ import annotations

from collections.abc import Mapping

from megabiomed.config.cluster import seconds_of

_EXCLUDED = "BadConstraints"
# Reasons of which SLURM's manual says that the job itself is outside of a limit, and what a person can change.
_NEVER = {
    "PartitionTimeLimit": "its time limit is above that of the partition: lower `time`, or choose another partition",
    "PartitionConfig": "the partition does not take such a job: compare `scontrol show partition` with its nodes and time",
    "AccountNotAllowed": "the partition does not take its account: set `account`, or choose another partition",
    "QOSNotAllowed": "the partition or the account does not take its qos: set `qos`, or choose another partition",
    "InvalidAccount": "its account is not valid: set `account`",
    "InvalidQOS": "its qos is not valid: set `qos`",
    "DependencyNeverSatisfied": "a job that it waits for has failed: megabiomed resubmit",
    "ReservationDeleted": "its reservation is gone: leave `reservation` out, or name another one",
    _EXCLUDED: "no node fits it: its constraints, GPUs or excluded nodes leave too few",
}
# Limits of associations and qos, whose names say that one job is above them (MaxWallDurationPerJob, MaxNodePerJob, ...).
_PER_JOB = ("PerJob", "MaxWall", "MinCpu", "MinGRES", "MinNode", "MinMemory")
_MAYBE = {
    "PartitionNodeLimit": "it asks for more nodes than the partition gives one job, or has now",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition is inactive",
    "JobHeldAdmin": "it is held: megabiomed release",
    "JobHeldUser": "it is held: megabiomed release",
    "job_requeued_in_held_state": "it is held: megabiomed release",
    "JobHoldMaxRequeue": "it was requeued too often for this site: megabiomed release",
    "launch_failed_requeued_held": "it could not be launched and is held: look at the node, then megabiomed release",
}


def never_starts(job: Mapping[str, str]) -> str | None:
    """Why a waiting job will not start unless somebody changes something, with what; None when it only waits.

    Args:
        job: its fields, as `scheduler.job` has them. SLURM's reason is a word, or a sentence with underscores.
    """
    reason = job.get("Reason", "")
    if job.get("JobState") != "PENDING" or reason in ("", "None"):
        return None
    if reason == _EXCLUDED and excluded_nodes(job):
        return f"{_NEVER[reason]} (excluded: {excluded_nodes(job)}): repair them, then megabiomed release"
    if reason in _NEVER:
        return _NEVER[reason]
    if reason.startswith(("Job's_account_not", "Job's_QOS_not")):
        return f"{reason.replace('_', ' ')}: set `account` or `qos`, or choose another partition"
    if reason.startswith(("Assoc", "QOS")) and any(part in reason for part in _PER_JOB):
        return f"it is above a limit for one job of its account or qos ({reason}): ask for less"
    return None


def explained(job: Mapping[str, str]) -> str | None:
    """As `never_starts`, and what else keeps a waiting job without being its turn; None when it only waits."""
    if job.get("JobState") != "PENDING":
        return None
    return never_starts(job) or _MAYBE.get(job.get("Reason", ""))


def is_shut_out(job: Mapping[str, str]) -> bool:
    """Whether a job waits for ever because too few nodes are left beside its excluded ones."""
    return job.get("JobState") == "PENDING" and job.get("Reason") == _EXCLUDED and excluded_nodes(job) is not None


def excluded_nodes(job: Mapping[str, str]) -> str | None:
    """Nodes that a job avoids, as SLURM writes them; None when it avoids none."""
    nodes = job.get("ExcNodeList")
    return nodes if nodes not in (None, "", "(null)") else None


def outside_limits(partitions: Mapping[str, Mapping[str, str]], names: str | None, nodes: int, time: str) -> str | None:
    """Which limit of its partition a job would exceed, where all of its partitions have one; None when one takes it.

    A qos may lift these limits. So this is for a warning, where SLURM gives no reason yet.

    Args:
        partitions: name -> fields of `scontrol show partition`.
        names: the job's partitions (`a,b`); None is the default one.
    """
    chosen = (
        names.split(",") if names else [name for name, fields in partitions.items() if fields.get("Default") == "YES"]
    )
    found = [_outside(name, partitions[name], nodes, time) for name in chosen if name in partitions]
    return None if not found or None in found else "; ".join(filter(None, found))


def _outside(name: str, fields: Mapping[str, str], nodes: int, time: str) -> str | None:
    longest, most = fields.get("MaxTime", "UNLIMITED"), fields.get("MaxNodes", "UNLIMITED")
    if longest[:1].isdigit() and seconds_of(time) > seconds_of(longest):
        return f"time {time} is above MaxTime {longest} of partition {name}"
    if most.isdigit() and nodes > int(most):
        return f"{nodes} nodes are above MaxNodes {most} of partition {name}"
    return None
