"""What the steps of health events read: papers, and their losses where `megabiomed explain` has computed them."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

from megabiomed.ground.damage import reading
from megabiomed.ground.figures import shown
from megabiomed.ground.html import table
from megabiomed.runs.explain.found import FOLDER, kept
from megabiomed.runs.history import EVENTS
from megabiomed.runs.report.facts import RunFacts

_JUDGED = ("non_finite", "spike")
_MOST_EVENTS = 20
_MOST_PAPERS = 10


def papers_part(facts: RunFacts) -> str:
    """The newest events and everything that was explained, by step."""
    with reading(facts.folder, f"remove the folder {FOLDER}, or the line of {EVENTS}"):
        explained = {(held["step"], held["first_sample"]): held for held in kept(facts.folder)}
        told = [event for event in facts.events if event["event"] in _JUDGED and event.get("samples")]
        events = {(event["step"], event["samples"][0]): event for event in told[-_MOST_EVENTS:]}
        parts = (_step(facts, key, events.get(key), explained.get(key)) for key in sorted({*events, *explained}))
        return "".join(part for each in parts for part in each)


def _step(
    facts: RunFacts, key: tuple[int, int], event: dict[str, Any] | None, explained: dict[str, Any] | None
) -> Iterator[str]:
    step, first = key
    what = "" if event is None else f": {event['event'].replace('_', ' ')}, {event.get('policy', '')}"
    yield f"<h3>Step {step:,}, from sample {first:,} on{escape(what)}</h3>"
    if explained is not None:
        yield _losses(explained)
    elif event is not None:
        yield _names(event)
        yield f"<p>Losses: <code>megabiomed explain {escape(str(facts.folder))} --step {step}</code></p>"


def _losses(explained: dict[str, Any]) -> str:
    pieces = explained["pieces"]
    rows = [
        ["none" if piece["loss"] is None else shown(piece["loss"], ".4f"), str(piece["loss_tokens"]), piece["paper_id"],
         piece["title"] or piece["begins"], _range(*piece["tokens"]), str(piece["sample"])]
        for piece in pieces[:_MOST_PAPERS]
    ]  # fmt: skip
    note = f"<p>The worst {len(rows)} of {len(pieces)}, with the weights of step {explained['checkpoint']}.</p>"
    return note + table(["loss", "predicted", "paper", "title or beginning", "tokens", "sample"], rows, words=True)


def _names(event: dict[str, Any]) -> str:
    papers = event.get("papers", [])
    rows = [
        [paper["paper_id"], paper.get("title", ""), _range(low, high), str(sample)]
        for paper in papers for sample, low, high in paper["pieces"]
    ]  # fmt: skip
    note = f"<p>The first {_MOST_PAPERS} of {len(rows)}.</p>" if len(rows) > _MOST_PAPERS else ""
    return note + table(["paper", "title", "tokens", "sample"], rows[:_MOST_PAPERS], words=True) if rows else ""


def _range(low: int, high: int) -> str:
    return f"{low:,} to {high - 1:,}"
