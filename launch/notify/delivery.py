"""Delivers the messages of a run, each to each receiver once: `slurm/notified.jsonl` has what became of every attempt."""

from __future__ import annotations

import errno
import fcntl
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from megabiomed.config.notify import NotifyConfig
from megabiomed.ground.files import sha256_bytes
from megabiomed.ground.json_lines import read_objects, seconds_of
from megabiomed.launch import records
from megabiomed.launch.notify.messages import messages
from megabiomed.launch.notify.senders import Message, Outcome, send

NOTIFIED = "notified.jsonl"
_SENDING = "sending"
_AGAIN_S, _AGAIN_MOST_S = 30.0, 900.0
"""Pause before a receiver that was away is asked again; it doubles."""
_STALE_S = 24 * 3600.0
"""A message that could not be delivered for so long is no news."""
_APART_S = {"spike": 600.0, "slow-rank": 600.0, "eta": 600.0}
"""Seconds between two messages of a kind that can come with every step; those between go together."""
_LISTED = 5


@dataclass
class _State:
    """What is known of the deliveries to one receiver."""

    over: set[str] = field(default_factory=set)
    """Keys of the messages that are not to be sent any more."""
    asked: float = 0.0
    tries: int = 0
    """When, and how often in a row, it was away."""
    last: dict[str, float] = field(default_factory=dict)
    """Kind of message -> when it got the last one."""


def receivers_of(run: Path) -> list[NotifyConfig]:
    """Who is told of a run, as it was submitted."""
    told = records.read_job(run).get("cluster", {}).get("notify") or []
    return [NotifyConfig.model_validate_json(json.dumps(each)) for each in told]


def deliver(run: Path, until: float | None = None, all_at_once: bool = False) -> Iterator[str]:
    """Try to deliver what is not delivered; yields what went wrong, and right again. Raises nothing that a receiver causes.

    Args:
        until: time (`time.monotonic`) at which the caller must go on; an attempt that is under way then counts as unclear.
        all_at_once: without pauses between tries and between messages of one kind: there may be no later.
    """
    found = messages(run)
    if not found:
        return
    with _alone(run) as alone:
        for receiver in receivers_of(run) if alone else []:
            yield from _to(run, receiver, found, until, all_at_once)


def pending(run: Path) -> dict[str, int]:
    """Receiver -> number of messages that it has not got yet."""
    found = messages(run)
    counts = {each.name: len(_wanted(each, found, _state(run, each))) for each in receivers_of(run)}
    return {name: count for name, count in counts.items() if count}


def _wanted(receiver: NotifyConfig, found: list[Message], state: _State) -> list[Message]:
    oldest = time.time() - _STALE_S
    return [
        each
        for each in found
        if each.event in receiver.events
        and each.key not in state.over
        and (seconds_of(each.details.get("time")) or 0.0) > oldest
    ]


def _to(
    run: Path, receiver: NotifyConfig, found: list[Message], until: float | None, all_at_once: bool
) -> Iterator[str]:
    state = _state(run, receiver)
    if not all_at_once and time.time() < state.asked + _pause(state.tries):
        return
    groups: dict[str, list[Message]] = {}
    for message in _wanted(receiver, found, state):
        groups.setdefault(message.event if message.event in _APART_S else message.key, []).append(message)
    for group in groups.values():
        event = group[0].event
        if not all_at_once and time.time() < state.last.get(event, 0.0) + _APART_S.get(event, 0.0):
            continue
        keys = [message.key for message in group]
        # Noted before the attempt: one that a requeue cuts off may have arrived, so it is not made again.
        _note(run, receiver, keys, _SENDING, event, "")
        outcome, said = _in_time(receiver, together(group), until)
        _note(run, receiver, keys, outcome, event, said)
        if outcome != Outcome.SENT:
            if state.tries == 0 or outcome != Outcome.AWAY:
                yield f"notify: {receiver.name}: {said}: {_what_then(outcome)}: {group[0].title}"
            if outcome == Outcome.AWAY:
                return  # the others would not arrive either
        elif state.tries:
            yield f"notify: {receiver.name}: answers again"
            state.tries = 0


def _what_then(outcome: Outcome) -> str:
    return {
        Outcome.AWAY: "it is tried again",
        Outcome.REFUSED: "it is not tried again",
        Outcome.UNCLEAR: "it may have arrived and is not sent again",
    }[outcome]


def together(group: list[Message]) -> Message:
    """Several messages of one kind as one."""
    if len(group) == 1:
        return group[0]
    first, more = group[0], len(group) - _LISTED
    lines = [f"{each.title.partition(': ')[2]}: {' '.join(each.text.splitlines()[:1])}" for each in group[-_LISTED:]]
    before = [f"{more} more before these"] if more > 0 else []
    rest = first.text.splitlines()[1:]
    key = sha256_bytes("".join(message.key for message in group).encode())[:16]
    return replace(first, key=key, title=f"{first.title}, {len(group)} times", text="\n".join([*before, *lines, *rest]))


def _in_time(receiver: NotifyConfig, message: Message, until: float | None) -> tuple[Outcome, str]:
    """An attempt that takes no longer than there is time, whatever the receiver does."""
    if until is not None and until <= time.monotonic():
        return Outcome.AWAY, "there was no time left"
    held: list[tuple[Outcome, str]] = []
    thread = threading.Thread(target=lambda: held.append(send(receiver, message)), daemon=True)
    thread.start()
    # A server that sends a byte now and then never meets the time-out of a socket.
    thread.join(min(3.0 * receiver.timeout_s, until - time.monotonic() if until is not None else 1e9))
    return held[0] if held else (Outcome.UNCLEAR, "no answer in time")


def _state(run: Path, receiver: NotifyConfig) -> _State:
    state = _State()
    for line in read_objects(run / records.SLURM / NOTIFIED):
        keys = line.get("keys")
        if line.get("receiver") != receiver.name or not isinstance(keys, list):
            continue
        at = seconds_of(line.get("time")) or 0.0
        if line.get("outcome") == Outcome.AWAY:
            state.over -= set(map(str, keys))
            state.asked, state.tries = at, state.tries + 1
            continue
        state.over |= set(map(str, keys))  # what was being sent, and nobody noted the end of it, too
        if line.get("outcome") != _SENDING:
            state.tries = 0
            state.last[str(line.get("event"))] = at
    return state


def _pause(tries: int) -> float:
    return min(_AGAIN_S * 2.0 ** (tries - 1), _AGAIN_MOST_S) if tries else 0.0


def _note(run: Path, receiver: NotifyConfig, keys: list[str], outcome: str, event: str, said: str) -> None:
    line: dict[str, Any] = {
        "time": records.now(), "receiver": receiver.name, "event": event, "keys": keys, "outcome": str(outcome), "said": said,
    }  # fmt: skip
    records.add_line(run / records.SLURM / NOTIFIED, line)


@contextmanager
def _alone(run: Path) -> Iterator[bool]:
    """Whether nobody else is delivering now. On file systems without locks nobody can say."""
    with (run / records.SLURM / "notify.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
        yield True


def send_test(receiver: NotifyConfig, cluster: str) -> tuple[Outcome, str]:
    """Send a test to a receiver, now; returns what became of it and what it said."""
    key = sha256_bytes(f"test {time.time_ns()}".encode())[:16]
    text = (
        f"This is a test of `notify` in the cluster file {cluster}. You would be told of: {', '.join(receiver.events)}."
    )
    message = Message(key, "test", "megabiomed: test", text, "-", {"time": records.now()})
    return _in_time(receiver, message, None)
