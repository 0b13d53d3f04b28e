"""The slurm/ folder of a run: what was submitted, what each incarnation did. Plain JSON that an operator can read.

slurm/job.sh config.yaml job.json     the script, the effective configuration, what was submitted where
slurm/incarnations.jsonl              one line when an incarnation begins, one for each decision about it
slurm/verdicts/INCARNATION.json       how the ranks left, written by rank 0
slurm/submit.lock                     locked while somebody submits the run
slurm/notified.jsonl, eta.jsonl       what became of each notification; expected ends (launch/notify)
slurm/no_agent                        job and node of starts on nodes that could not even run the agent
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from megabiomed.checkpoint.fence import CLAIM, Fence, of_owners
from megabiomed.checkpoint.marker import COMMITTED
from megabiomed.ground.errors import FileError, LaunchError
from megabiomed.ground.files import read_json
from megabiomed.ground.json_lines import read_objects
from megabiomed.ground.places import same_place
from megabiomed.ground.secrets import masked_values
from megabiomed.processes.ranks import BAD_NODES

SLURM = "slurm"
JOB = "job.json"
SCRIPT = "job.sh"
INCARNATIONS = "incarnations.jsonl"
EVENTS = "events.jsonl"
VERDICTS = "verdicts"
KILL_SWITCH = Path("control") / "end"
PAUSE = Path("control") / "pause"
INPUTS = "inputs"
"""Key of a `begin`: run folder of a stage before -> number of the claim under which it had finished by then."""
COMMAND = "command"
"""What JOB says of the kind of a stage that is no run."""
SELFTEST = "selftest"
"""The same of a self-test."""
RESUBMITTED = "resubmitted"
"""Who claims a run that is submitted again, until a start does."""
_WRITABLE = "make room, or ask its owner for permission to write (`umask` in the cluster file)"
FORMAT = 1
"""Of JOB: raised where an earlier release would misread what a later one writes. Keys that it does not know do it no harm."""
_KINDS = {
    "format": int,
    "stage": str, "chain": str, "kind": str, "prepared": str, "time": str, "job_id": str | None, "cluster": dict,
    "before": list, "members": list, "controls": list, "after": list, "words": list, "ranks": int, "max_failures": int,
    "resources": dict,
    "nodes": int, "sizes": list, "shrink_after": int | None,
}  # fmt: skip
"""Types of what JOB says, where it says it: an earlier version wrote fewer keys."""


def now() -> str:
    """UTC, seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class _Record(dict[str, Any]):
    """A record that names itself where a key is missing."""

    def __init__(self, file: Path, values: dict[str, Any]) -> None:
        super().__init__(values)
        self._file = file

    def __missing__(self, key: str) -> Any:
        raise _damaged(self._file, f"no key {key}")


def _damaged(file: Path, got: object) -> LaunchError:
    return LaunchError(f"{file} is damaged", got=got, do="remove it and submit the run again")


def read_job(run: Path) -> dict[str, Any]:
    """What was submitted for a run; empty when nothing was.

    Raises:
        LaunchError: the record is damaged, at once, or when a key that it lacks is asked for.
    """
    file = run / SLURM / JOB
    if not file.is_file():
        return {}
    try:
        record = read_json(file, dict)
    except FileError as error:
        raise _damaged(file, error.got) from None
    for key, kind in _KINDS.items():
        if key in record and not isinstance(record[key], kind):
            raise _damaged(file, f"{key} = {record[key]!r}"[:200])
    if record.get("format", FORMAT) > FORMAT:
        raise LaunchError(
            f"{run} was submitted by a newer release of megabiomed", got=f"format {record['format']}",
            expected=f"format {FORMAT} at most", do="use that release for this run",
        )  # fmt: skip
    if not isinstance(record.get("cluster", {}).get("grace_seconds", 0), int):
        raise _damaged(file, f"cluster.grace_seconds = {record['cluster']['grace_seconds']!r}"[:200])
    for key in ("members", "controls", "after", "before"):
        if not all(isinstance(item, str) for item in record.get(key, [])):
            raise _damaged(file, f"{key} = {record[key]!r}"[:200])
    return _Record(file, record)


def is_paused(run: Path) -> bool:
    """Whether a run is to wait, held, as a switch in its folder or in that of the whole run says (`megabiomed pause`)."""
    return any((Path(folder) / PAUSE).exists() for folder in (run, *read_job(run).get("controls", [])))


def resume(run: Path) -> bool:
    """Take these switches away; returns whether there was one."""
    was_paused = is_paused(run)
    for folder in (run, *read_job(run).get("controls", [])):
        (Path(folder) / PAUSE).unlink(missing_ok=True)
    return was_paused


def was_moved(run: Path, record: dict[str, Any]) -> Path | None:
    """The folder that a run had when it was submitted, if it is another one now: its script knows only that one."""
    named = record.get("controls") or []
    return Path(named[0]) if named and not same_place(Path(named[0]), run) else None


@contextmanager
def submitting(runs: Iterable[Path]) -> Iterator[None]:
    """Keep others from submitting these runs meanwhile, on any login node; a process that dies releases them.

    Raises:
        LaunchError: somebody else is submitting, or a folder cannot be written. On file systems without locks nobody waits.
    """
    with ExitStack() as locks:
        for run in runs:
            try:
                (run / SLURM).mkdir(parents=True, exist_ok=True)
                file = locks.enter_context((run / SLURM / "submit.lock").open("a"))
                # The kernel's lock, not the file's existence: a file would outlive a login session that was cut off.
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LaunchError(
                    f"{run} is being submitted by somebody else", do=f"wait a moment, then `megabiomed status {run}`"
                ) from None
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                    raise LaunchError(f"{run} cannot be written", got=error, do=_WRITABLE) from None
        yield


def append(run: Path, kind: str, fence: Fence | None, **values: Any) -> bool:
    """Add a line to the incarnations; see `_add`."""
    return _add(run / SLURM / INCARNATIONS, fence, {"time": now(), "kind": kind, **masked_values(values)})


def note_event(run: Path, kind: str, fence: Fence | None) -> bool:
    """Add an event to those of the ranks; see `_add`."""
    return _add(run / EVENTS, fence, {"time": now(), "event": kind})


def _add(file: Path, fence: Fence | None, record: dict[str, Any]) -> bool:
    """Add a line to a run's records.

    Args:
        fence: the claim of the start that writes; None for an operator who holds the lock of `submitting`, and where the run
            folder has no claim.

    Returns:
        Whether it was written: nothing is where a later start has claimed the run, and standard error says so.
    """
    if fence is not None and fence.taken_over():
        print(f"not noted, a later start took over: {record}", file=sys.stderr)
        return False
    add_line(file, record | ({CLAIM: fence.number} if fence is not None else {}))
    return True


def add_line(file: Path, record: dict[str, Any]) -> None:
    """Add a line of JSON to a file, durably; one write, so that concurrent writers do not mix lines."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        os.write(descriptor, (json.dumps(record) + "\n").encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def history(run: Path) -> list[dict[str, Any]]:
    """The lines of the incarnations, without those that a start added after it had lost the run, and damaged ones."""
    found = of_owners(read_objects(run / SLURM / INCARNATIONS))
    return [record for record in found if isinstance(record.get("kind"), str)]


def renew(run: Path) -> None:
    """A run is submitted again: its budgets start from zero, and the ranks decide whether there is more to do.

    What an earlier start still writes, on a node that its scheduler lost, counts no longer.
    """
    begun, finished = bool(history(run)), last_event(run).get("event") == "finished"
    fence = Fence.claim(run, RESUBMITTED) if begun else None
    if finished:
        note_event(run, "reopened", fence)
    if begun:
        append(run, "end", fence, incarnation="resubmit", outcome=RESUBMITTED, reason="submitted again by hand")


def since_submission(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines that count against the budgets: those after the last submission."""
    last = max((n for n, record in enumerate(history) if record.get("outcome") == RESUBMITTED), default=-1)
    return history[last + 1 :]


def verdict(run: Path, incarnation: str) -> dict[str, Any]:
    """How the ranks of an incarnation left together; empty when they did not."""
    try:
        return read_json(run / SLURM / VERDICTS / f"{incarnation}.json", dict)
    except FileError:
        return {}


def bad_nodes(told: dict[str, Any]) -> dict[str, str]:
    """Node -> why, of those that the ranks of an incarnation found bad by their verdict."""
    found = told.get(BAD_NODES)
    return {str(node): str(why) for node, why in found.items()} if isinstance(found, dict) else {}


def committed_step(run: Path) -> int:
    """Step of the newest committed checkpoint, by its marker alone; 0 without any."""
    names = (marker.parent.name.removeprefix("step_") for marker in run.glob(f"checkpoints/step_*/{COMMITTED}"))
    return max((int(name) for name in names if name.isdigit()), default=0)


def submitters(runs: Iterable[Path]) -> list[str]:
    """Option of squeue for the jobs of this user and of those who submitted some runs."""
    owners = set()
    for run in runs:
        with suppress(OSError):
            owners.add((run / SLURM / JOB).stat().st_uid)
    others = sorted(owners - {os.geteuid()})
    return [f"--user={','.join(map(str, [os.geteuid(), *others]))}"] if others else ["--me"]


def last_begin(run: Path) -> dict[str, Any]:
    """The newest start of a run; empty before the first."""
    return next((record for record in reversed(history(run)) if record["kind"] == "begin"), {})


def last_event(run: Path, key: str = "event") -> dict[str, Any]:
    """The newest event of a run that has a key, by a start that owned the run then; empty before the first."""
    events = [event for event in of_owners(read_objects(run / EVENTS)) if key in event]
    return events[-1] if events else {}


def slow_ranks(run: Path) -> list[dict[str, Any]]:
    """The events `slow_rank` of a run that still hold: each names the rank, its host, by how much (docs/health.md).

    A host in them is one that a launcher may exclude. Nothing once the start that told of them is over.
    """
    held: dict[Any, dict[str, Any]] = {}
    for event in of_owners(read_objects(run / EVENTS)):
        kind, rank = event.get("event"), event.get("rank")
        if kind == "slow_rank" and isinstance(rank, int) and isinstance(event.get("host"), str):
            held[rank] = event
        elif kind == "slow_rank_over" and isinstance(rank, int):
            held.pop(rank, None)
        elif kind in ("start", "resume", "stopped", "ended", "failed", "finished"):
            held.clear()
    return list(held.values())


def gpu_findings(run: Path) -> list[dict[str, Any]]:
    """The events `gpu_health` of the newest start of a run, also after its end (docs/health.md)."""
    held: list[dict[str, Any]] = []
    for event in of_owners(read_objects(run / EVENTS)):
        if event.get("event") in ("start", "resume"):
            held.clear()
        elif event.get("event") == "gpu_health":
            held.append(event)
    return held


def is_finished(run: Path) -> bool:
    """Whether the last thing that happened to a run is that it finished."""
    return last_event(run).get("event") == "finished"


def finish(run: Path) -> int | None:
    """Number of the claim under which a run finished: another one means another result. None when it is not finished."""
    number = last_event(run).get(CLAIM)
    return number if is_finished(run) and isinstance(number, int) else None
