"""`megabiomed account`: GPU-hours, time in the queue, useful share and cost of submitted runs, by stage and in sum."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megabiomed.ground.errors import LaunchError, MegabiomedError
from megabiomed.launch import accounting, queue, records
from megabiomed.launch.usage import (
    Allocation,
    Trained,
    gpu_hours,
    node_hours,
    of_accounting,
    of_records,
    with_training,
)

SACCT, RECORDS = "sacct", "records"


@dataclass(frozen=True)
class Account:
    """What a stage took, or several in sum.

    Attributes:
        source: where the times come from: SLURM's accounting, or the run's own records.
        hours: for which nodes were held.
        queue_hours: time in the queue, after the stages before had finished; a hold counts. None where nobody knows.
        useful: share of the allocated time in training steps that no later start did again; None for a command.
        cost: of the GPUs; None without GPUs or without a price.
    """

    run: str
    chain: str | None
    stage: str
    source: str
    starts: int
    hours: float
    gpu_hours: float
    node_hours: float
    cpu_hours: float
    queue_hours: float | None
    useful: float | None
    lost_steps: int
    cost: float | None
    currency: str | None


def accounts(runs: Sequence[Path], price: float | None = None, now: float | None = None) -> list[Account]:
    """What each of these run folders took; the scheduler and its accounting are asked once for all of them.

    Args:
        price: of a GPU for an hour, instead of that of the cluster file.
        now: seconds since 1970; for tests.
    """
    now = time.time() if now is None else now
    jobs = {run: records.read_job(run) for run in runs}
    numbers = {run: _numbers(run, job) for run, job in jobs.items()}
    names = {
        number: f"{jobs[run].get('chain')}-{jobs[run].get('stage')}" for run, held in numbers.items() for number in held
    }
    known = accounting.allocations(names)
    queued: list[dict[str, str]] = []
    with suppress(LaunchError):
        queued = queue.listed(runs)
    found = []
    for run, job in jobs.items():
        # A start of which the accounting knows nothing is in the run's own records alone.
        complete = bool(numbers[run]) and all(number in known for number in numbers[run])
        if complete:
            rows = [row for number in numbers[run] for row in known[number]]
            starts = of_accounting(rows, now)
        else:
            starts = of_records(run, job, queue.job_among(queued, run, job).get("JobState"), now)
        if job.get("kind") != records.COMMAND and (trained := _trained(run)) is not None:
            starts = with_training(starts, trained)
        found.append(account_of(run, job, starts, SACCT if complete else RECORDS, price))
    return found


def account_of(run: Path, job: dict[str, Any], starts: list[Allocation], source: str, price: float | None) -> Account:
    """The account of one run from its starts."""
    cluster = job.get("cluster", {})
    price = cluster.get("cost_per_gpu_hour") if price is None else price
    gpus, waits = gpu_hours(starts), [start.queued_s for start in starts if start.queued_s is not None]
    return Account(
        run=str(run), chain=job.get("chain"), stage=str(job.get("stage", run.name)), source=source, starts=len(starts),
        hours=sum(start.hours for start in starts), gpu_hours=gpus, node_hours=node_hours(starts),
        cpu_hours=sum(start.cpus * start.hours for start in starts),
        queue_hours=sum(waits) / 3600 if waits else None, useful=_useful(starts),
        lost_steps=sum(start.lost_steps for start in starts),
        cost=gpus * float(price) if price is not None and gpus else None, currency=cluster.get("currency"),
    )  # fmt: skip


def total(found: Sequence[Account]) -> Account:
    """The sum of stages. The useful share is that of the stages that have one, each by its GPU-hours (or node-hours)."""
    costs = [each.cost for each in found if each.cost is not None]
    currencies = {each.currency for each in found if each.cost is not None}
    waits = [each.queue_hours for each in found if each.queue_hours is not None]
    weighed = [(each.useful, each.gpu_hours or each.node_hours) for each in found if each.useful is not None]
    weight = sum(hours for _, hours in weighed)
    return Account(
        run="", chain=None, stage="sum", source=", ".join(sorted({each.source for each in found})),
        starts=sum(each.starts for each in found), hours=sum(each.hours for each in found),
        gpu_hours=sum(each.gpu_hours for each in found), node_hours=sum(each.node_hours for each in found),
        cpu_hours=sum(each.cpu_hours for each in found), queue_hours=sum(waits) if waits else None,
        useful=sum(share * hours for share, hours in weighed) / weight if weight else None,
        lost_steps=sum(each.lost_steps for each in found),
        # Sums of two currencies are none.
        cost=sum(costs) if costs and len(currencies) == 1 else None,
        currency=next(iter(currencies)) if len(currencies) == 1 else None,
    )  # fmt: skip


def as_dict(account: Account) -> dict[str, Any]:
    """For JSON and CSV: hours with four digits after the point."""
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in asdict(account).items()}


def _useful(starts: Sequence[Allocation]) -> float | None:
    """Seconds of steps that count among those allocated, each start by its GPUs, or by its nodes where it has none."""
    weighed = [
        (start.useful_s, start.hours * 3600, start.gpus or start.nodes)
        for start in starts
        if start.useful_s is not None
    ]
    allocated = sum(seconds * weight for _, seconds, weight in weighed)
    useful = sum(seconds * weight for seconds, _, weight in weighed)
    return min(1.0, useful / allocated) if allocated else None


def _numbers(run: Path, job: dict[str, Any]) -> list[str]:
    """Ids of all jobs that ever started a run, and of the one that is in the queue."""
    names = [str(record.get("incarnation")) for record in records.history(run) if record["kind"] == "begin"]
    found = [name.partition(".")[0] for name in names] + [str(job.get("job_id") or "")]
    return list(dict.fromkeys(number for number in found if number.isdigit()))


def _trained(run: Path) -> list[Trained] | None:
    """What each start of a run trained; None where its files do not say."""
    # Imported where it is needed: it brings torch.
    from megabiomed.runs.report.write import facts_of

    if not (run / records.EVENTS).is_file():
        return []  # no start came as far as its first step
    try:
        starts = facts_of(run).starts
    except (MegabiomedError, OSError):
        return None
    found = []
    for number, start in enumerate(starts):
        later = starts[number + 1].first_step if number + 1 < len(starts) else start.last_step
        lost = start.rewound_steps + max(0, start.last_step - later)
        found.append(Trained(start.began, max(0.0, start.training_s - start.lost_s), lost))
    return found
