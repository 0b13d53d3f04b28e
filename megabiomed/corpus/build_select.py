"""Which of the cleaned papers stay, and in which split, for the corpus as a whole: first by range of keys, then by file."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megabiomed.corpus.build_bars import BuildBars
from megabiomed.corpus.cleaned_parts import split_file
from megabiomed.corpus.decide import DecideJob, decide_shard
from megabiomed.corpus.duplicates import range_jobs, resolve_range
from megabiomed.corpus.options import BuildOptions
from megabiomed.corpus.pool import JobRunner
from megabiomed.corpus.shards import SPLITS


def select_papers(
    options: BuildOptions,
    working: Path,
    accounts: Sequence[Mapping[str, Any]],
    counts: Counter[str],
    run_jobs: JobRunner,
    bars: BuildBars,
) -> list[Path]:
    """Decide for every document of every part: train (0), validation (1), or dropped.

    No process holds more than the keys of a range, or the documents of a source file.

    Args:
        working: the folder of the unfinished build.
        accounts: of `clean_shard`, in the order of the corpus.
        counts: gains `papers: ...`, `train` and `validation`.
        run_jobs: runs the jobs.

    Returns:
        one file for each part, in the order of the corpus.
    """
    clean, marks = working / "clean", working / "marks"
    marks.mkdir(exist_ok=True)
    files = [int(account["entry_files"]) for account in accounts]
    ranges = range_jobs(clean, files, sum(account["entries"] for account in accounts), marks)
    bar = bars.step("compare", [1] * len(ranges), "keys")
    found = run_jobs(resolve_range, ranges, on_progress=bar)
    below = math.ceil(options.validation_fraction * 2**64)
    jobs = [
        DecideJob(clean, number, tuple(account["parts"]), tuple(found), below, options.remove_contaminated)
        for number, account in enumerate(accounts)
    ]
    bar = bars.step("select", [1] * len(jobs), "papers")
    for counted in run_jobs(decide_shard, jobs, on_progress=bar):
        counts.update(counted)
    for name in SPLITS:
        counts[name] += 0  # a report has both
    counts["papers: kept"] = counts["train"] + counts["validation"]
    return [
        split_file(clean / f"shard-{number:05d}" / part)
        for number, account in enumerate(accounts)
        for part in account["parts"]
    ]
