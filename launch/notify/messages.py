"""What an operator should be told of a run, read from its own records: nothing else has to be kept until it is delivered.

A message is known by what it was made from, so a start after a requeue finds the same ones again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from megabiomed.checkpoint.fence import of_owners
from megabiomed.ground.files import sha256_bytes
from megabiomed.ground.json_lines import read_objects, seconds_of
from megabiomed.ground.places import same_place
from megabiomed.launch import records
from megabiomed.launch.notify.eta import SLIPS, later
from megabiomed.launch.notify.senders import Message
from megabiomed.processes.hang_page import PAGE

Record = Mapping[str, Any]


def messages(run: Path) -> list[Message]:
    """Everything since the run was submitted that may be told, in the order in which it happened."""
    job = records.read_job(run)
    if not job:
        return []
    history, since = records.history(run), _since(job, records.history(run))
    events = of_owners(read_objects(run / records.EVENTS))
    slips = read_objects(run / records.SLURM / SLIPS)
    sources: tuple[tuple[Iterator[Record] | list[Any], Callable[[Path, Record], Iterator[tuple[str, str, str]]]], ...]
    sources = ((history, _of_decision), (events, _of_event), (slips, _of_slip))
    found = [
        (str(record["time"]), _message(run, job, record, *told))
        for lines, read in sources
        for record in lines
        if (seconds_of(record.get("time")) or 0.0) >= since
        for told in read(run, record)
    ]
    found += [(str(record["time"]), made) for record, made in _of_chain(run, job, history, since)]
    return [message for _, message in sorted(found, key=lambda each: each[0])]


def _since(job: Record, history: list[dict[str, Any]]) -> float:
    """When the run was submitted last, seconds since 1970: what was before is no news."""
    again = [record.get("time") for record in history if record.get("outcome") == records.RESUBMITTED]
    return max(seconds_of(time) or 0.0 for time in (job.get("prepared"), *again))


def name_of(run: Path, job: Record) -> str:
    """How messages call a run: with its chain where that has several stages."""
    return f"{job.get('chain')}/{job.get('stage')}" if len(job.get("members", [])) > 1 else run.name


def _message(run: Path, job: Record, record: Record, event: str, what: str, text: str) -> Message:
    step = record.get("step", record.get("after"))
    where = [f"run: {run}", f"job: {job.get('job_id')}" + (f", step {step}" if isinstance(step, int) else "")]
    lines = [text, *where, f"read on: megabiomed logs {run} --job"]
    details = {"chain": job.get("chain"), "stage": job.get("stage"), "job": job.get("job_id"), "time": record["time"]}
    return Message(
        _key(event, dict(record)),
        event,
        f"{name_of(run, job)}: {what}",
        "\n".join(filter(None, lines)),
        str(run),
        details,
    )


def _key(*parts: Any) -> str:
    return sha256_bytes(json.dumps(parts, sort_keys=True, default=str).encode())[:16]


def _of_decision(run: Path, record: Record) -> Iterator[tuple[str, str, str]]:
    """(event, what happened, text) of a line about a start."""
    reason, nodes = str(record.get("reason", "")), record.get("exclude") or []
    if record.get("decision") == "fail" and not _by_request(record):
        yield "give-up", "gave up", reason
    if record["kind"] == "end" and (run / "logs" / str(record.get("incarnation")) / PAGE).is_file():
        yield "hang", "hung", reason
    if nodes:
        yield "bad-node", f"bad {'nodes' if len(nodes) > 1 else 'node'} {', '.join(map(str, nodes))}", reason
    if record["kind"] == "end" and record.get("outcome") == "finished":
        yield "run-done", "finished", ""


def _by_request(record: Record) -> bool:
    """Whether a job ended because somebody set its kill switch, while it ran or while it waited."""
    return record.get("outcome") == "ended" or (
        record["kind"] == "refused" and "kill switch" in record.get("reason", "")
    )


def _of_event(run: Path, record: Record) -> Iterator[tuple[str, str, str]]:
    """As `_of_decision`, of an event of the ranks."""
    kind, step = record.get("event"), record.get("step")
    if kind in ("non_finite", "spike"):
        what = "a loss or gradient that is not finite" if kind == "non_finite" else "a spike of loss or gradient norm"
        yield (
            "spike",
            what,
            f"loss {record.get('loss')}, gradient norm {record.get('grad_norm')}, {record.get('policy')}",
        )
    elif kind == "rewind":
        yield "spike", "rewound", f"from step {step} to step {record.get('to_step')}"
    elif kind == "corruption":
        hosts = ", ".join(map(str, record.get("hosts") or []))
        yield "bad-node", f"flipped bits on {hosts}", f"tensors: {', '.join(map(str, record.get('tensors') or []))}"
    elif kind == "gpu_health" and record.get("bad"):
        gpu = "" if record.get("gpu") is None else f", GPU {record['gpu']}"
        yield "bad-node", f"bad node {record.get('host')}{gpu}", str(record.get("text"))
    elif kind == "slow_rank":
        text = f"{record.get('factor')} times as long as its peers ({record.get('part')})"
        yield "slow-rank", f"rank {record.get('rank')} on {record.get('host')} is slow", text


def _of_slip(run: Path, record: Record) -> Iterator[tuple[str, str, str]]:
    if "slipped_s" in record:
        yield (
            "eta",
            f"its end is {later(record['slipped_s'])} later than expected",
            f"expected now: {record.get('end')}",
        )


def _of_chain(run: Path, job: Record, history: list[dict[str, Any]], since: float) -> Iterator[tuple[Record, Message]]:
    """That the whole chain is done, told by the stage that finished last."""
    members = [Path(folder) for folder in job["members"]]
    ends = [
        each for each in history if each.get("outcome") == "finished" and (seconds_of(each["time"]) or 0.0) >= since
    ]
    if len(members) < 2 or not ends or not all(records.is_finished(folder) for folder in members):
        return
    times = [(str(records.last_event(folder).get("time")), n) for n, folder in enumerate(members)]
    if not same_place(members[max(times)[1]], run):
        return  # of two that finish in one second the later one of the chain tells it
    key = _key("chain-done", times)
    text = f"all {len(members)} stages have finished\nrun: {members[-1]}"
    details = {"chain": job.get("chain"), "time": ends[-1]["time"]}
    yield ends[-1], Message(key, "chain-done", f"{job.get('chain')}: the chain is done", text, str(run), details)
