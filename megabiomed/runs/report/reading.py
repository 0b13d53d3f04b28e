"""The part of a report about the papers that were read, by field of study and by year."""

from __future__ import annotations

from megabiomed.config import RunConfig
from megabiomed.data.loader import open_training_data
from megabiomed.data.reading import UNKNOWN, Read, what_was_read
from megabiomed.ground.errors import MegabiomedError
from megabiomed.ground.html import bars, table
from megabiomed.runs.report.facts import RunFacts

_FIELDS = 20


def reading_part(facts: RunFacts) -> str:
    """HTML; "" for a run of other data than token stores, and where those are no longer there."""
    samples = max((event["sample"] for event in facts.events if isinstance(event.get("sample"), int)), default=0)
    # The order of other kinds of runs is that of other data.
    if not samples or type(facts.config) is not RunConfig or not facts.config.data.train:
        return ""
    try:
        loader = open_training_data(facts.config.data, facts.config.seed)
        found = what_was_read(loader, samples)
    except (MegabiomedError, OSError):  # the run may have been copied away from its data
        return ""
    rows = [[path, f"{found.by_source.get(path, 0.0):.1%}", f"{passes:.3g}"] for path, passes in found.passes.items()]
    return _note(found) + table(["store", "share of tokens", "passes"], rows) + _plots(found)


def _note(found: Read) -> str:
    which = "all" if found.looked_at == found.samples else f"{found.looked_at:,} at equal distances"
    return f"<p>{found.samples:,} samples were read; the shares of tokens are those of {which}.</p>"


def _plots(found: Read) -> str:
    kinds = ("Papers by field of study", found.by_field), ("Papers by year", found.by_year)
    plots = ""
    for title, held in kinds:
        if set(held) - {UNKNOWN}:
            shown = dict(list(held.items())[:_FIELDS]) if held is found.by_field else held
            plots += f"<h3>{title}</h3>" + bars(shown, "share of tokens", ".1%")
    return plots
