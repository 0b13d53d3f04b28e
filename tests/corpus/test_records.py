"""The account of rejects: counted by reason, sampled by place, merged between processes."""

from __future__ import annotations

import dataclasses

import pytest

from megabiomed.corpus.records import Paper, Rejects, Span
from megabiomed.ground.errors import DataError


def test_every_reject_is_counted_but_only_the_first_places_are_kept():
    rejects = Rejects(keep=2)
    for line in range(5):
        rejects.add("record: invalid JSON", f"a.jsonl:{line}", "why")
    assert rejects.counts == {"record: invalid JSON": 5}
    assert rejects.samples["record: invalid JSON"] == ["a.jsonl:0: why", "a.jsonl:1: why"]


def test_merging_adds_counts_and_fills_samples_up_to_the_limit():
    left, right = Rejects(keep=2), Rejects(keep=2)
    left.add("span: empty or reversed", "a:1")
    for line in (1, 2, 3):
        right.add("span: empty or reversed", f"b:{line}")
    right.add("input: blank line", "b:9")
    left.merge(right)
    assert left.counts == {"span: empty or reversed": 4, "input: blank line": 1}
    assert left.samples["span: empty or reversed"] == ["a:1", "b:1"]


def test_lost_papers_are_told_from_lost_spans():
    rejects = Rejects()
    rejects.add("record: text is empty", "a:1", count=3)
    rejects.add("span: negative offset", "a:2")
    assert rejects.records == 3
    assert list(rejects.lines())[:2] == ["record: text is empty: 3", "    a:1"]


def test_a_strict_collector_stops_at_the_first_reject():
    with pytest.raises(DataError, match=r"invalid JSON.*a.jsonl:7"):
        Rejects(strict=True).add("record: invalid JSON", "a.jsonl:7")


def test_papers_cannot_be_changed_after_reading():
    paper = Paper("1", {}, "t", None, "text", {"title": [Span(0, 1)]}, "a.jsonl", 1, 0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        paper.text = "other"  # type: ignore[misc]
