"""`megabiomed submit --sweep KEY=VALUE,VALUE`: a run for each combination, with its own folder and job.

No SLURM job array: its tasks share one script and one job id, by which commands, fences, records and requeues tell runs apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from megabiomed.ground.errors import ConfigError, LaunchError
from megabiomed.ground.files import read_json, write_json
from megabiomed.launch import records, scheduler

FILE = "sweep.json"
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.+-]+")
_AROUND = "[]{}()'\" "
_NAME = 100


@dataclass(frozen=True)
class Member:
    """One run of a sweep.

    Attributes:
        values: key -> value as it was typed.
        label: name of its folder.
    """

    values: dict[str, str]
    label: str

    def overrides(self, folder: Path, name: str) -> list[str]:
        """Keys of its configuration; the run is told apart from the others by its name too, in trackers and queues."""
        short = _NOT_IN_NAMES.sub("-", f"{name}-{self.label}").replace("+", "")[:_NAME]
        return [
            *(f"{key}={value}" for key, value in self.values.items()),
            f"name={short}",
            f"run_dir={folder / self.label}",
        ]


def grid(sweeps: Iterable[str]) -> list[Member]:
    """All combinations of the values of `key=value,value` words, the last key changing fastest.

    Raises:
        ConfigError: a word without values, a key that is given twice, or one that the sweep sets itself.
    """
    values: dict[str, list[str]] = {}
    for word in sweeps:
        key, sign, text = word.partition("=")
        if not sign or not key or "" in (found := _split(text)):
            raise ConfigError(
                "--sweep has no values", got=repr(word), expected="key=value,value", do="name at least one"
            )
        if key in values or key in ("run_dir", "name"):
            raise ConfigError(f"--sweep cannot take {key}", got=word, do="give each key once, and not run_dir or name")
        values[key] = list(dict.fromkeys(found))
    members: list[Member] = []
    labels: set[str] = set()
    names = _short(list(values))
    for chosen in product(*values.values()):
        parts = (f"{names[key]}={_plain(value)}" for key, value in zip(values, chosen))
        label = "_".join(parts)[:_NAME]
        # Values that differ in other characters alone, or far behind.
        if label in labels:
            label = f"{label}_{len(members) + 1}"
        labels.add(label)
        members.append(Member(dict(zip(values, chosen)), label))
    return members


def _plain(value: str) -> str:
    """A value as a name of a folder has it."""
    return _NOT_IN_NAMES.sub("-", value.strip(_AROUND))


def _short(keys: list[str]) -> dict[str, str]:
    """The last words of keys, as far as they tell them apart."""
    lasts = [key.rpartition(".")[2] for key in keys]
    return {key: last if lasts.count(last) == 1 else key for key, last in zip(keys, lasts)}


def _split(text: str) -> list[str]:
    """The values of a list, of which each may be a list or a mapping: `[1,2],[3]` are two."""
    found = [""]
    depth, quote = 0, ""
    for letter in text:
        if quote or letter in "\"'":
            quote = "" if letter == quote else quote or letter
        depth += 0 if quote else (letter in "[{(") - (letter in "]})")
        if letter == "," and not depth and not quote:
            found.append("")
        else:
            found[-1] += letter
    return [value.strip() for value in found]


def note(folder: Path, members: Sequence[Member]) -> None:
    """Add runs to the list of a sweep; those that it has already stay."""
    known = {entry["label"]: entry for entry in read(folder)} if (folder / FILE).is_file() else {}
    folder.mkdir(parents=True, exist_ok=True)
    entries = known | {member.label: {"label": member.label, "values": member.values} for member in members}
    write_json(folder / FILE, {"runs": list(entries.values())})


def read(folder: Path) -> list[dict[str, Any]]:
    """The runs of a sweep: the name of the folder and the values of each.

    Raises:
        LaunchError: the folder is that of no sweep, or its list is damaged.
    """
    if not (folder / FILE).is_file():
        raise LaunchError(
            f"{folder} is no sweep", got=f"no {FILE} in it", do="megabiomed submit RUN --sweep KEY=VALUE,VALUE"
        )
    entries = read_json(folder / FILE, dict).get("runs")
    found = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    whole = all(isinstance(entry.get("label"), str) and isinstance(entry.get("values"), dict) for entry in found)
    if not isinstance(entries, list) or len(found) < len(entries) or not whole:
        raise LaunchError(f"{folder / FILE} is damaged", got=str(entries)[:100], do="submit the sweep again")
    return found


def is_sweep(folder: Path) -> bool:
    """Whether a folder is that of a sweep."""
    return (folder / FILE).is_file()


def submitted(folder: Path) -> list[Path]:
    """The folders of the runs of a sweep that were submitted."""
    runs = (folder / entry["label"] for entry in read(folder))
    job = f"{records.SLURM}/{records.JOB}"
    return [run for run in runs if any([*run.glob(job), *run.glob(f"*/{job}")])]


def queued_job(run: Path) -> str | None:
    """Id of the job that a run has in the queue."""
    job = scheduler.job_of(run) if records.read_job(run) else {}
    return job["JobId"] if job.get("JobState") in scheduler.ACTIVE else None
