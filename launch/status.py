"""`megabiomed status`: one row per stage, from the scheduler and from the files that the run wrote."""

from __future__ import annotations

import math
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from megabiomed.checkpoint.marker import COMMITTED
from megabiomed.config.cluster import seconds_of
from megabiomed.ground.errors import LaunchError
from megabiomed.ground.figures import NOT_FINITE
from megabiomed.ground.json_lines import parsed_object
from megabiomed.ground.places import same_place
from megabiomed.launch import accounting, elastic, queue, records, scheduler
from megabiomed.launch.decision import failures
from megabiomed.launch.pending import excluded_nodes, explained
from megabiomed.launch.stage_in.report import of_start
from megabiomed.launch.usage import gpu_hours, node_hours, of_records

# Bytes from the end of metrics.jsonl: more than a hundred records.
_TAIL = 1 << 16
_ENDING = ("incarnation", "time", "decision", "reason", "code", "after", "first_failure")
_BROKEN = ("FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT", "BOOT_FAIL", "DEADLINE")
"""States in which SLURM leaves a job for good, other than by somebody's wish."""


def queued_runs() -> list[Path]:
    """Runs of this user that are in the queue, wherever their folders are; none where the scheduler does not answer."""
    try:
        jobs = queue.listed()
    except LaunchError:
        return []
    scripts = [Path(job["Command"]) for job in jobs if "Command" in job]
    folders = [script.parent.parent for script in scripts if script.name == records.SCRIPT]
    return [folder for folder in folders if records.read_job(folder)]


def find_runs(where: Path | None) -> list[Path]:
    """The submitted runs: the one that is given (with its chain), or all below a folder (default `runs/`).

    Raises:
        CheckpointError: the path is something else, for example a token store.
    """
    if where is not None and (record := records.read_job(where)):
        chain = [Path(folder) for folder in record["members"] if records.read_job(Path(folder))]
        return chain if any(same_place(where, folder) for folder in chain) else [where]
    found = submitted_below(where or Path("runs"))
    if not found and where is not None:
        # Imported where it is needed: it brings torch, for which a look at a queue should not wait.
        from megabiomed.checkpoint.locate import locate
        from megabiomed.checkpoint.uses import SUBMITTED

        run = locate(where).expect(SUBMITTED).run
        return find_runs(run) if run is not None and not same_place(run, where) else []
    return found


def submitted_below(folder: Path) -> list[Path]:
    """Run folders with a job in a folder, or in the runs in it; in the order in which they were submitted."""
    # Two levels: runs, and the stages of a run that is submitted as several. Deeper, a search over checkpoints and logs would
    # take minutes on a parallel file system.
    runs = [
        path.parent.parent for depth in ("*", "*/*") for path in folder.glob(f"{depth}/{records.SLURM}/{records.JOB}")
    ]

    def place(run: Path) -> tuple[str, int]:
        record = records.read_job(run)
        members, here = record["members"], str(run.absolute())
        if here in members:
            return record["prepared"], members.index(here)
        return record["prepared"], next((n for n, folder in enumerate(members) if same_place(Path(folder), run)), 0)

    return sorted(runs, key=place)


def statuses(runs: list[Path]) -> list[dict[str, Any]]:
    """Everything that is known about runs; what is not known is None. One call of the controller for all of them.

    What the controller has forgotten is asked from its accounting, in one call too.
    """
    queued: list[dict[str, str]] | None
    try:
        queued = queue.listed(runs)
    except LaunchError:
        queued = None  # the rest of a row comes from the run's own files
    known = {run: records.read_job(run) for run in runs}
    jobs = {run: queue.job_among(queued or [], run, record) for run, record in known.items()}
    forgotten = {
        str(record["job_id"]): f"{record.get('chain')}-{record.get('stage')}"
        for run, record in known.items()
        if record.get("job_id") and not jobs[run] and not records.is_finished(run)
    }
    past = accounting.endings(forgotten)
    return [
        _status(run, known[run], jobs[run], past.get(str(known[run].get("job_id")), []), queued is None) for run in runs
    ]


def status_of(run: Path) -> dict[str, Any]:
    """As `statuses`, of one run."""
    return statuses([run])[0]


def _status(
    run: Path, job: dict[str, Any], slurm: dict[str, str], past: list[dict[str, str]], away: bool
) -> dict[str, Any]:
    history, event = records.history(run), records.last_event(run)
    metrics = last_metrics(run)
    ends = [record for record in history if _is_ending(record)]
    last = ends[-1] if ends else {}
    total = records.last_event(run, "total_steps").get("total_steps")
    step, reason = records.committed_step(run), slurm.get("Reason")
    held = of_records(run, job, slurm.get("JobState"), time.time())
    return {
        "run": str(run),
        "chain": job.get("chain"),
        "stage": job.get("stage"),
        "job": slurm.get("JobId") or job.get("job_id"),
        "state": _state(slurm, event, past, away),
        "reason": reason if reason not in (None, "None") else None,
        "starts": sum(record["kind"] == "begin" for record in history),
        "failures": failures(records.since_submission(history), step),
        "max_failures": job.get("max_failures"),
        "elapsed": slurm.get("RunTime") if slurm.get("JobState") in scheduler.STARTED else None,
        "limit": _limit(slurm, job),
        "gpu_hours": round(gpu_hours(held), 4),
        "node_hours": round(node_hours(held), 4),
        "step": _known(metrics, "step"),
        "total_steps": total if is_figure(total) else None,
        "loss": metrics.get("train/loss"),
        "tokens_per_s": _known(metrics, "train/tokens_per_s"),
        "mfu": _known(metrics, "train/mfu"),
        "checkpoint_step": step,
        "checkpoint_age_s": _checkpoint_age(run),
        "eta_s": _eta(metrics, job, slurm) if event.get("event") != "finished" else 0.0,
        "nodes": slurm.get("NodeList") if slurm.get("NodeList") not in (None, "(null)") else None,
        "shrunk": elastic.shrunk(history),
        "staged": of_start(run / "logs" / str(records.last_begin(run).get("incarnation"))),
        "excluded": excluded_nodes(slurm),
        "blocked": _paused(run, slurm) or explained(slurm) or _abandoned(run, slurm, past, history),
        "slow": [
            {key: found.get(key) for key in ("rank", "host", "work", "part", "factor", "lost", "step")}
            for found in records.slow_ranks(run)
        ],
        "gpu_health": [
            {key: found.get(key) for key in ("host", "gpu", "fault", "text", "bad", "step")}
            for found in records.gpu_findings(run)
        ],
        "last": last.get("reason"),
        "last_time": last.get("time"),
        "first_failure": last.get("first_failure"),
        "endings": [{key: record.get(key) for key in _ENDING} for record in ends],
        "recoveries": [record for record in history if record["kind"] == "recovery"],
        "accounting": past,
    }


def _paused(run: Path, slurm: dict[str, str]) -> str | None:
    """What to type for a run that waits because its operator paused it, or is about to."""
    if not records.is_paused(run) or records.is_finished(run):
        return None
    waits = slurm.get("JobState") in scheduler.WAITING
    return f"{'paused' if waits else 'to be paused'}: megabiomed release {run}"


def _limit(slurm: dict[str, str], job: dict[str, Any]) -> str | None:
    """The time limit of a start; a job that waits to be requeued has none in some versions of SLURM."""
    limit = slurm.get("TimeLimit", "")
    return limit if limit[:1].isdigit() else job.get("time")


def _abandoned(
    run: Path, slurm: dict[str, str], past: list[dict[str, str]], history: list[dict[str, Any]]
) -> str | None:
    """What to type when a job failed without a decision: its batch script was killed, or the controller forgot its request."""
    state = slurm.get("JobState") or (past[-1]["State"] if past else "")
    begun = records.last_begin(run).get("incarnation")
    heard = {record.get("incarnation") for record in history if _is_ending(record)}
    if state.split(" ")[0] not in _BROKEN or begun is None or begun in heard or records.is_finished(run):
        return None
    return f"its batch script was killed before it could decide: megabiomed resubmit {run}"


def _is_ending(record: dict[str, Any]) -> bool:
    """Whether a record says how a start ended: by its run, its budget, its preflight, or a node without an agent."""
    if record["kind"] == "preflight":
        return record.get("decision", "requeue" if record.get("exclude") or record.get("all") else "run") != "run"
    return record["kind"] in ("end", "refused", "no_agent", elastic.WAITS)


def _state(slurm: dict[str, str], event: dict[str, Any], past: list[dict[str, str]], away: bool) -> str:
    if event.get("event") == "finished":
        return "FINISHED"
    if slurm.get("JobState"):
        return slurm["JobState"]
    if (ended := accounting.state_of(past)) is not None:
        return ended
    if away:
        return "scheduler does not answer"
    return f"not in the queue ({event['event']})" if event else "not in the queue"


def last_metrics(run: Path) -> dict[str, Any]:
    """The newest training record, from the end of the file, with its figures, what is not finite, and its time."""
    file = run / "metrics.jsonl"
    if not file.is_file():
        return {}
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - _TAIL))
        lines = stream.read().splitlines()
    for line in reversed(lines):
        record = parsed_object(line)
        if record is not None and "train/loss" in record:
            return {
                key: value for key, value in record.items() if is_figure(value) or value == NOT_FINITE or key == "time"
            }
    return {}


def _known(metrics: dict[str, Any], key: str) -> Any:
    return metrics[key] if is_figure(metrics.get(key)) else None


def is_figure(value: object) -> bool:
    """Whether it is a finite number; a damaged file holds anything."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _checkpoint_age(run: Path) -> float | None:
    marker = run / "checkpoints" / f"step_{records.committed_step(run):08d}" / COMMITTED
    return max(0.0, time.time() - marker.stat().st_mtime) if marker.is_file() else None


def _eta(metrics: dict[str, Any], job: dict[str, Any], slurm: dict[str, str]) -> float | None:
    """Seconds of work left, plus the pauses of the requeues that the time limit makes necessary."""
    left = _known(metrics, "train/eta_s")
    if left is None or "time" not in job:
        return None
    # A start trains for its time limit without the grace at its end.
    limit = seconds_of(job["time"]) - job["cluster"]["grace_seconds"]
    return float(left) + int(left // limit) * _requeue_pause(slurm)


def remaining_s(run: Path) -> tuple[float | None, int]:
    """Seconds that a run still needs, as far as its own files know them, and the steps that its newest start has done."""
    metrics, begun = last_metrics(run), records.last_begin(run).get("step", 0)
    step = _known(metrics, "step") or 0
    return _eta(metrics, records.read_job(run), {}), step - begun if isinstance(begun, int) else 0


def reported_step(run: Path) -> int:
    """The newest step that a run reported; what a start does again of it was lost."""
    return int(_known(last_metrics(run), "step") or 0)


def _requeue_pause(slurm: dict[str, str]) -> float:
    """Seconds from a requeue to the next start: at least SLURM's own 121 s, plus what this job last waited in the queue."""
    # A requeued job may start cred_expire + 1 seconds later (by default 121), when no node accepts its old credential. A
    # requeue is a submission for SLURM, so its wait has that pause in it.
    try:
        begin, submit = (datetime.fromisoformat(slurm[key]) for key in ("StartTime", "SubmitTime"))
    except (KeyError, ValueError):
        return 121.0
    return max(121.0, (begin - submit).total_seconds())
