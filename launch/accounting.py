"""How jobs ended that the controller has forgotten (MinJobAge, minutes): asked from its accounting, where a site has one."""

from __future__ import annotations

import shutil
from collections.abc import Mapping

from megabiomed.ground.errors import LaunchError
from megabiomed.launch import scheduler

_FIELDS = ("JobIDRaw", "JobName", "State", "Start", "End", "Elapsed", "ExitCode", "NodeList")
_NEWER = ("Reason",)
"""Fields that older versions refuse."""
_HELD = ("JobID", "JobIDRaw", "JobName", "Submit", "Eligible", "Start", "End", "NNodes", "AllocCPUS", "AllocTRES")


def endings(names: Mapping[str, str]) -> dict[str, list[dict[str, str]]]:
    """Job id -> the starts of the job, oldest first, each with how it ended; one call for all of them.

    Without an answer, for whatever reason, nothing is known: many sites have no accounting.

    Args:
        names: job id -> its name. A controller that was set up anew gives ids a second time, to other jobs.
    """
    return _asked(names, ((*_FIELDS, *_NEWER), _FIELDS))


def allocations(names: Mapping[str, str]) -> dict[str, list[dict[str, str]]]:
    """As `endings`, with what each start held of the cluster and how long it waited; components of a job are rows too."""
    return _asked(names, (_HELD,))


def _asked(names: Mapping[str, str], choices: tuple[tuple[str, ...], ...]) -> dict[str, list[dict[str, str]]]:
    if not names or shutil.which("sacct") is None:
        return {}
    for fields in choices:
        # -D: every start of a job that was requeued; -X: whole jobs, without their steps.
        words = ("-D", "-X", "--noheader", "--parsable2", f"--jobs={','.join(names)}", f"--format={','.join(fields)}")
        try:
            text = scheduler.call("sacct", *words, patient=False)
        except LaunchError as error:
            if "nvalid field" in str(error.got):
                continue
            return {}
        return _parsed(text, fields, names)
    return {}


def _parsed(text: str, fields: tuple[str, ...], names: Mapping[str, str]) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for line in text.splitlines():
        values = line.split("|")
        row = dict(zip(fields, values))
        number = row.get("JobIDRaw", "")
        if (whole := row.get("JobID", "").partition("+"))[1]:  # of a job on several kinds of nodes
            number = whole[0]
        if len(values) == len(fields) and number in names and row["JobName"] == names[number]:
            found.setdefault(number, []).append(row)
    return found


def state_of(starts: list[dict[str, str]]) -> str | None:
    """SLURM's state of the last start (`CANCELLED by 1000` without the user), with its reason; None without any."""
    if not starts:
        return None
    state, reason = starts[-1]["State"].split(" ")[0], starts[-1].get("Reason", "None")
    return state if reason in ("", "None") else f"{state} ({reason})"
