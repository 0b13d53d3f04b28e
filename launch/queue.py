"""The jobs of a table in one answer of the controller, however many runs it has: sites throttle those who ask often."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from megabiomed.launch import records, scheduler

# Text with names of our own: squeue's JSON has other types in every other version. The script is last, for it is free text.
_FIELDS = {
    "JobId": "%i", "JobState": "%T", "Reason": "%r", "NodeList": "%N", "ExcNodeList": "%x", "SubmitTime": "%V",
    "StartTime": "%S", "TimeLimit": "%l", "RunTime": "%M", "Partition": "%P", "Priority": "%Q", "Command": "%o",
}  # fmt: skip
FORMAT = "|".join(f"{name}={letter}" for name, letter in _FIELDS.items())


def listed(runs: Iterable[Path] = (), patient: bool = False) -> list[dict[str, str]]:
    """Jobs with the fields of `scontrol show job`, including those that ended minutes ago.

    Those of this user, and of the users who submitted these runs.

    Of a job on several kinds of nodes one entry, with the nodes of all.

    Raises:
        LaunchError: the scheduler does not answer.
    """
    text = scheduler.call(
        "squeue", *records.submitters(runs), "--states=all", "--noheader", f"--format={FORMAT}", patient=patient
    )
    found: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        words = line.split("|", len(_FIELDS) - 1)
        fields = {name: value.strip() for name, _, value in (word.partition("=") for word in words) if value.strip()}
        if "JobId" not in fields:
            continue
        number, _, part = fields["JobId"].partition("+")
        fields["JobId"] = number
        if "Reason" in fields:  # `scontrol` writes one in a word, squeue with spaces
            fields["Reason"] = fields["Reason"].replace(" ", "_")
        first = found.setdefault(number, fields)
        if part not in ("", "0"):
            _join(first, fields)
    return list(found.values())


def _join(first: dict[str, str], other: Mapping[str, str]) -> None:
    nodes = [fields["NodeList"] for fields in (first, other) if fields.get("NodeList")]
    if nodes:
        first["NodeList"] = ",".join(nodes)


def job_among(jobs: list[dict[str, str]], run: Path, record: Mapping[str, Any]) -> dict[str, str]:
    """The job of a run, as `scheduler.job_of` finds it; empty when it is not among them."""
    # The script proves whose job it is, not the id, which a controller that was killed may have given away again.
    script = run.absolute() / records.SLURM / records.SCRIPT
    recorded = record.get("job_id")
    for fields in jobs:
        mine = fields["JobId"] == recorded if recorded else fields.get("JobState") in scheduler.ACTIVE
        if mine and scheduler.is_script(fields.get("Command"), script):
            return fields
    return {}
