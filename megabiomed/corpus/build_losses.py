"""What a build lost: the rejects of its source files, the lines that keep them, and the words when no paper is left."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from megabiomed.corpus.options import BuildOptions
from megabiomed.corpus.records import Rejects
from megabiomed.ground.files import write_atomic

REJECTS = "rejects.jsonl"


def rejects_of(account: Mapping[str, Any]) -> Rejects:
    """The rejects that the account of a cleaned file names."""
    rejects = Rejects()
    rejects.counts.update(account["counts"])
    rejects.samples.update(account["samples"])
    return rejects


def reject_lines(rejects: Rejects) -> Iterator[str]:
    """One JSON line for each sample of damage: reason, how often it occurred in all, and the place."""
    for reason, samples in rejects.samples.items():
        for sample in samples:
            row = {"reason": reason, "count": rejects.counts[reason], "sample": sample}
            yield json.dumps(row, ensure_ascii=False) + "\n"


def kept_rejects(options: BuildOptions) -> Path:
    """Where the rejects of a build without papers stay."""
    return options.output.with_name(f"{options.output.name}.{REJECTS}")


def keep_rejects(options: BuildOptions, rejects: Rejects) -> str:
    """Write the rejects beside the output, which nothing else would keep of this build; returns what to do."""
    do = "check the input layout and the cleaning rules"
    if not rejects.counts:
        return do
    path = kept_rejects(options)
    write_atomic(path, "".join(reject_lines(rejects)))
    return f"{do}; {path} has examples"


def losses(counts: Mapping[str, int], rejects: Rejects) -> str:
    """The most frequent reasons why papers are missing, with an example of the first one that is a damage."""
    dropped = {what: n for what, n in counts.items() if what.startswith("papers: dropped")}
    reasons = Counter({**rejects.counts, **dropped})
    most = [f"{count} x {reason}" for reason, count in reasons.most_common(6)]
    example = next((rejects.samples[reason][0] for reason, _ in rejects.counts.most_common(1)), "")
    return ", ".join(most) + (f" ({example})" if example else "") if most else "no records"
