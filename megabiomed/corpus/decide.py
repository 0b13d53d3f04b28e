"""Which papers of one source file stay, and in which split; each file is a job of its own."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabiomed.corpus.cleaned_parts import key_file, split_file
from megabiomed.corpus.dedup import KEY, KINDS
from megabiomed.corpus.entries import kind_of, place_of, row_of, save_array, shard_folder
from megabiomed.corpus.pool import count_work
from megabiomed.corpus.shards import SPLITS
from megabiomed.ground.files import read_json, write_json

DROPPED = -1
"""In place of a split."""
DECIDED = "decided.json"
_REASONS = {"text": "text seen before", "near": "near duplicate"}


@dataclass(frozen=True)
class DecideJob:
    """One cleaned source file.

    Attributes:
        clean: folder of the shards.
        shard: its number.
        parts: names of its parts.
        marks: files of `resolve_range`, of all ranges.
        validation_below: papers whose `split_hash` is lower are held out.
        remove_contaminated: whether papers with evaluation questions are dropped.
    """

    clean: Path
    shard: int
    parts: tuple[str, ...]
    marks: tuple[Path, ...]
    validation_below: int
    remove_contaminated: bool


def decide_shard(job: DecideJob) -> dict[str, int]:
    """Write for every part which of its documents go to train (0), to validation (1), or nowhere, unless that is done.

    Returns:
        `papers: dropped, REASON`, `train` and `validation`, as far as there are any.
    """
    folder = shard_folder(job.clean, job.shard)
    if (folder / DECIDED).is_file():
        return dict(read_json(folder / DECIDED, dict))
    keys = [np.load(key_file(folder / part)) for part in job.parts]
    whole = np.concatenate(keys) if keys else np.zeros(0, KEY)
    count_work(len(whole))
    counts = Counter[str]()
    alive = np.ones(len(whole), np.bool_)
    for reason, unwanted in _unwanted(job, whole):
        counts[f"papers: dropped, {reason}"] += int((unwanted & alive).sum())
        alive &= ~unwanted
    # The hash of its id decides, not a draw: a paper that was held out once is held out by every later build, of a larger
    # corpus too, so a model that continues from an older one is not validated on what that one has read.
    held_out = (whole["split"] < np.uint64(job.validation_below)).astype(np.int8)
    split = np.where(alive, held_out, np.int8(DROPPED))
    for number, name in enumerate(SPLITS):
        counts[name] += int((split == number).sum())
    edges = np.cumsum([len(part) for part in keys])[:-1]
    for part, own in zip(job.parts, np.split(split, edges)):
        save_array(split_file(folder / part), own)
    found = {what: number for what, number in counts.items() if number}
    write_json(folder / DECIDED, found)
    return found


def _unwanted(job: DecideJob, keys: NDArray[Any]) -> list[tuple[str, NDArray[np.bool_]]]:
    """Reasons and the documents that they apply to: a paper is counted under the first that does."""
    places = _marked(job)
    kinds, rows = kind_of(places), row_of(places)
    found = []
    for number, kind in enumerate(KINDS):
        marked = np.zeros(len(keys), np.bool_)
        marked[rows[kinds == number]] = True
        if kind in _REASONS:
            found.append((_REASONS[kind], marked))
        else:
            found.append((f"{kind} seen before", marked & ~keys["abstract"]))
            found.append((f"an abstract whose {kind} was seen before", marked & keys["abstract"]))
    if job.remove_contaminated:
        found.append(("evaluation items in them", keys["tainted"]))
    return found


def _marked(job: DecideJob) -> NDArray[np.uint64]:
    """The places of this file in all ranges."""
    low, high = np.uint64(place_of(job.shard, 0, 0, False)), np.uint64(place_of(job.shard + 1, 0, 0, False))
    pieces = [np.zeros(0, np.uint64)]
    for file in job.marks:
        marks = np.load(file, mmap_mode="r")
        start, end = np.searchsorted(marks, [low, high])
        pieces.append(np.array(marks[start:end]))
    return np.concatenate(pieces)
