"""What the files of a run say about its starts: from which step to which, how long, and where the time went."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megabiomed.checkpoint.fence import of_owners
from megabiomed.config import RunConfig
from megabiomed.ground.json_lines import read_objects, seconds_of
from megabiomed.runs.history import METRICS, read_events

ENDINGS = ("finished", "stopped", "ended", "failed")
_NO_FIGURES = ("step", "time", "claim")
_BEGINNINGS = ("start", "resume")


@dataclass
class StartFacts:
    """One start of a run. Times are seconds since 1970, steps are those done.

    Attributes:
        first_step: steps done when it began.
        began: when its command was called.
        last: when something was heard of it for the last time.
        startup_s: from the command to the end of its first step.
        training_s: in training steps, those that a later start did again included.
        saving_s: for which saves held the training up.
        lost_s: of training_s, in steps that it did again after a rewind, or the next start did.
        last_step: steps done at its end, or the last that is known of.
        ending: "finished", "stopped", "ended" or "failed"; "killed" where it did not say.
        rewound_to: steps to which it went back by itself, in order (docs/health.md).
        rewound_steps: how many steps it went back in sum.
    """

    first_step: int
    began: float
    last: float
    startup_s: float = 0.0
    training_s: float = 0.0
    saving_s: float = 0.0
    lost_s: float = 0.0
    last_step: int = 0
    ending: str = "killed"
    changed: list[str] = field(default_factory=list)
    rewound_to: list[int] = field(default_factory=list)
    rewound_steps: int = 0

    @property
    def wall_s(self) -> float:
        """From the command to the last sign of life."""
        return max(0.0, self.last - self.began)

    @property
    def other_s(self) -> float:
        """In no training step, save or start-up: validations, evaluations, waiting for trackers, the first step's rest."""
        return max(0.0, self.wall_s - self.startup_s - self.training_s - self.saving_s)


@dataclass
class Curve:
    """One figure of a run; of a step that was done twice, the later value. What was not finite is NaN."""

    steps: list[int]
    values: list[float]


@dataclass(frozen=True)
class RunFacts:
    """Everything that a report shows of a run."""

    folder: Path
    config: RunConfig
    events: list[dict[str, Any]]
    curves: dict[str, Curve]
    starts: list[StartFacts]

    @property
    def step(self) -> int:
        """Steps done by the last start."""
        return self.starts[-1].last_step if self.starts else 0

    def time(self) -> dict[str, float]:
        """Seconds of all starts by what they went into; "steps" are those that count."""
        lost = sum(start.lost_s for start in self.starts)
        return {
            "steps": sum(start.training_s for start in self.starts) - lost,
            "steps done again": lost,
            "start-up": sum(start.startup_s for start in self.starts),
            "saves": sum(start.saving_s for start in self.starts),
            "validation and other": sum(start.other_s for start in self.starts),
        }

    def goodput(self) -> float | None:
        """Share of the time of all starts that went into steps that count."""
        found = self.time()
        whole = sum(found.values())
        return found["steps"] / whole if whole else None


def read_facts(folder: Path, config: RunConfig) -> RunFacts:
    """The facts of one run folder."""
    events = list(read_events(folder))
    records = [record for record in of_owners(read_objects(folder / METRICS)) if isinstance(record.get("step"), int)]
    starts = _starts(events)
    _measure(starts, records, config)
    return RunFacts(folder, config, events, curves_of(records), starts)


def curves_of(records: Iterable[dict[str, Any]]) -> dict[str, Curve]:
    """The figures of lines of metrics.jsonl, by their names."""
    found: dict[str, dict[int, float]] = {}
    for record in records:
        for name, value in record.items():
            if name not in _NO_FIGURES and isinstance(record.get("step"), int) and isinstance(value, int | float | str):
                found.setdefault(name, {})[record["step"]] = math.nan if isinstance(value, str) else float(value)
    return {name: Curve(sorted(held), [held[step] for step in sorted(held)]) for name, held in found.items()}


def _starts(events: list[dict[str, Any]]) -> list[StartFacts]:
    """The starts that the events tell of."""
    starts: list[StartFacts] = []
    for event in events:
        kind, step = event["event"], event.get("step")
        now = seconds_of(event.get("time"))
        if kind in _BEGINNINGS and now is not None:
            done = step if isinstance(step, int) else 0
            changed = event.get("changed")
            starts.append(StartFacts(done, now, now, last_step=done))
            starts[-1].changed = [str(line) for line in changed] if isinstance(changed, list) else []
        elif starts:
            _take_in(starts[-1], kind, now, event)
    return starts


def _take_in(start: StartFacts, kind: str, now: float | None, event: dict[str, Any]) -> None:
    start.last = max(start.last, now or 0.0)
    if isinstance(event.get("step"), int):
        start.last_step = max(start.last_step, event["step"])
    if kind == "first_step" and now is not None:
        start.startup_s = _number(event.get("seconds"))
        start.began = min(start.began, now - start.startup_s)
    elif kind == "save":
        start.saving_s += _number(event.get("pause_s"))
    elif kind == "rewind" and isinstance(event.get("to_step"), int):
        start.rewound_to.append(event["to_step"])
        start.rewound_steps += max(0, start.last_step - event["to_step"])
    elif kind in ENDINGS:
        start.ending = kind


def _measure(starts: list[StartFacts], records: list[dict[str, Any]], config: RunConfig) -> None:
    """Fill in the time in training steps, from the speed that the step lines say."""
    tokens = config.data.global_batch_size * config.data.seq_length
    for number, (start, lines) in enumerate(zip(starts, _by_start(starts, records))):
        later = starts[number + 1].first_step if number + 1 < len(starts) else math.inf
        returns = iter([*start.rewound_to, later])
        stretch: list[tuple[int, int, float]] = []  # (from, to, seconds) since the start, or the last rewind
        done = start.first_step
        for record in lines:
            speed, step = _number(record.get("train/tokens_per_s")), record["step"]
            start.last = max(start.last, seconds_of(record.get("time")) or 0.0)
            if step <= done:
                done = int(min(next(returns, done), step - 1))
                start.lost_s += _behind(stretch, done)
                stretch.clear()
            if speed:
                stretch.append((done, step, (step - done) * tokens / speed))
                start.training_s += stretch[-1][2]
            done = step
        start.last_step = max(start.last_step, done) if not start.rewound_to else max(done, start.first_step)
        start.lost_s += _behind(stretch, later)


def _behind(stretch: list[tuple[int, int, float]], step: float) -> float:
    """Seconds of a stretch in steps behind this one."""
    return sum(seconds * max(0.0, last - max(first, step)) / (last - first) for first, last, seconds in stretch)


def _by_start(starts: list[StartFacts], records: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The step lines of each start, in the order of the file."""
    left = deque(record for record in records if "train/tokens_per_s" in record)
    for later in [*starts[1:], None]:
        lines = []
        while left and (later is None or _is_before(left[0], later)):
            lines.append(left.popleft())
        yield lines


def _is_before(record: dict[str, Any], start: StartFacts) -> bool:
    """Whether a step line was written before a start began. Lines of earlier releases have no time."""
    written = seconds_of(record.get("time"))
    return record["step"] <= start.first_step if written is None else written < start.began


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else 0.0
