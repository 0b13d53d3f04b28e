"""`megabiomed status`: one row per stage, from the scheduler and from the files that the run wrote."""

from __future__ import annotations

import math
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from megabiomed.ground.errors import LaunchError
from megabiomed.ground.figures import NOT_FINITE, shown
from megabiomed.ground.json_lines import parsed_object
from megabiomed.ground.places import same_place
from megabiomed.launch import records, scheduler
from megabiomed.launch.cluster import seconds_of
from megabiomed.launch.pending import excluded_nodes, explained

COLUMNS = (
    "run",
    "stage",
    "job",
    "state",
    "incarnation",
    "step",
    "loss",
    "tokens/s",
    "mfu",
    "saved",
    "eta",
    "nodes",
    "last",
)
# Bytes from the end of metrics.jsonl: more than a hundred records.
_TAIL = 1 << 16


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


def status_of(run: Path) -> dict[str, Any]:
    """Everything that is known about one run; what is not known is None."""
    job, history = records.read_job(run), records.history(run)
    slurm, away = _ask(run)
    metrics, ends = _last_metrics(run), [record for record in history if _is_ending(record)]
    begins = [record for record in history if record["kind"] == "begin"]
    event = records.last_event(run)
    total = records.last_event(run, "total_steps").get("total_steps")
    return {
        "run": str(run),
        "chain": job.get("chain"),
        "stage": job.get("stage"),
        "job": slurm.get("JobId") or job.get("job_id"),
        "state": _state(slurm, event, away),
        "reason": slurm.get("Reason") if slurm.get("Reason") not in (None, "None") else None,
        "incarnations": len(begins),
        "step": _known(metrics, "step"),
        "total_steps": total if _is_figure(total) else None,
        "loss": metrics.get("train/loss"),
        "tokens_per_s": _known(metrics, "train/tokens_per_s"),
        "mfu": _known(metrics, "train/mfu"),
        "checkpoint_step": records.committed_step(run),
        "checkpoint_age_s": _checkpoint_age(run),
        "eta_s": _eta(metrics, job, slurm) if event.get("event") != "finished" else 0.0,
        "nodes": slurm.get("NodeList") if slurm.get("NodeList") not in (None, "(null)") else None,
        "excluded": excluded_nodes(slurm),
        "blocked": explained(slurm),
        "slow": [
            {key: found.get(key) for key in ("rank", "host", "work", "part", "factor", "lost", "step")}
            for found in records.slow_ranks(run)
        ],
        "last": ends[-1].get("reason") if ends else None,
        "endings": [
            {key: record.get(key) for key in ("time", "decision", "reason", "code", "after")} for record in ends
        ],
    }


def _is_ending(record: dict[str, Any]) -> bool:
    """Whether a record says how a start ended: by its run, its budget, its preflight, or a node without an agent."""
    if record["kind"] == "preflight":
        return record.get("decision", "requeue" if record.get("exclude") or record.get("all") else "run") != "run"
    return record["kind"] in ("end", "refused", "no_agent")


def _ask(run: Path) -> tuple[dict[str, str], bool]:
    """The scheduler's answer, and whether there was none: the rest of a row comes from the run's own files."""
    try:
        return scheduler.job_of(run, patient=False), False
    except LaunchError:
        return {}, True


def _state(slurm: dict[str, str], event: dict[str, Any], away: bool) -> str:
    if event.get("event") == "finished":
        return "FINISHED"
    if away:
        return "scheduler does not answer"
    return slurm.get("JobState") or (f"not in the queue ({event['event']})" if event else "not in the queue")


def _last_metrics(run: Path) -> dict[str, Any]:
    """The newest training record, from the end of the file."""
    file = run / "metrics.jsonl"
    if not file.is_file():
        return {}
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - _TAIL))
        lines = stream.read().splitlines()
    for line in reversed(lines):
        record = parsed_object(line)
        if record is not None and "train/loss" in record:
            return {key: value for key, value in record.items() if _is_figure(value) or value == NOT_FINITE}
    return {}


def _known(metrics: dict[str, Any], key: str) -> Any:
    return metrics[key] if _is_figure(metrics.get(key)) else None


def _is_figure(value: object) -> bool:
    """Whether it is a finite number; a damaged file holds anything."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _checkpoint_age(run: Path) -> float | None:
    marker = run / "checkpoints" / f"step_{records.committed_step(run):08d}" / "COMMITTED"
    return max(0.0, time.time() - marker.stat().st_mtime) if marker.is_file() else None


def _eta(metrics: dict[str, Any], job: dict[str, Any], slurm: dict[str, str]) -> float | None:
    """Seconds of work left, plus the pauses of the requeues that the time limit makes necessary."""
    left = _known(metrics, "train/eta_s")
    if left is None or "time" not in job:
        return None
    # A start trains for its time limit without the grace at its end.
    limit = seconds_of(job["time"]) - job["cluster"]["grace_seconds"]
    return float(left) + int(left // limit) * _requeue_pause(slurm)


def _requeue_pause(slurm: dict[str, str]) -> float:
    """Seconds from a requeue to the next start: at least SLURM's own 121 s, plus what this job last waited in the queue."""
    # A requeued job may start cred_expire + 1 seconds later (by default 121), when no node accepts its old credential.
    try:
        begin, submit = (datetime.fromisoformat(slurm[key]) for key in ("StartTime", "EligibleTime"))
    except (KeyError, ValueError):
        return 121.0
    return 121.0 + max(0.0, (begin - submit).total_seconds())


def row(status: dict[str, Any]) -> tuple[str, ...]:
    """A status as cells of the table."""
    state = status["state"] + (f" ({status['reason']})" if status["reason"] else "")
    step = f"{status['step']:,}/{status['total_steps']:,}" if status["step"] and status["total_steps"] else None
    speed = f"{status['tokens_per_s']:,.0f}" if status["tokens_per_s"] else None
    age = (
        f"step {status['checkpoint_step']:,}, {_ago(status['checkpoint_age_s'])} ago"
        if status["checkpoint_step"]
        else None
    )
    loss = shown(status["loss"], ".4f") if status["loss"] is not None else None
    mfu = f"{status['mfu']:.1%}" if status["mfu"] is not None else None
    cells = (
        *(
            Path(status["run"]).name,
            status["stage"],
            status["job"],
            state,
            str(status["incarnations"]),
            step,
            loss,
            speed,
        ),
        *(mfu, age, _ago(status["eta_s"]) if status["eta_s"] is not None else None, status["nodes"], _last(status)),
    )
    return tuple(cell or "-" for cell in cells)


def _last(status: dict[str, Any]) -> str | None:
    """What keeps the job from ever starting; slow ranks; the last decision; the nodes that it avoids."""
    avoids = f"without {status['excluded']}" if status["excluded"] and not status["blocked"] else None
    return "; ".join(filter(None, (status["blocked"], _slow(status), status["last"], avoids))) or None


def _slow(status: dict[str, Any]) -> str | None:
    """The slow ranks of a start that is under way, with their nodes and by how much."""
    found = [
        f"rank {slow['rank']} on {slow['host']}" + (f" {slow['factor']:.3g} x" if _is_figure(slow["factor"]) else "")
        for slow in status["slow"]
    ]
    return f"slow: {', '.join(found)}" if found else None


def lines(status: dict[str, Any]) -> list[str]:
    """A status for a narrow terminal."""
    cell = dict(zip(COLUMNS, row(status)))
    return [
        f"{cell['run']} {cell['stage']}: {cell['state']}, job {cell['job']}, incarnation {cell['incarnation']}",
        f"  step {cell['step']}  loss {cell['loss']}  tokens/s {cell['tokens/s']}  mfu {cell['mfu']}  eta {cell['eta']}",
        f"  saved {cell['saved']}  nodes {cell['nodes']}",
        f"  last: {cell['last']}",
    ]


def _ago(seconds: float) -> str:
    minutes, _ = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours}h"
    return f"{hours}h {minutes:02d}m" if hours else (f"{minutes} min" if minutes else f"{int(seconds)} s")
