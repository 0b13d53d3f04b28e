"""Intervals [start, end) of a text: united, measured, and what they leave."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

Interval = tuple[int, int]


def merge(intervals: Iterable[Interval]) -> list[Interval]:
    """Unite overlapping and touching intervals; sorted by start."""
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def covered(intervals: list[Interval]) -> int:
    """Characters in merged intervals."""
    return sum(end - start for start, end in intervals)


def meets(intervals: list[Interval], start: int, end: int) -> bool:
    """Whether one of merged intervals meets [start, end)."""
    # The first interval that ends after `start`.
    place = bisect_right(intervals, start, key=lambda interval: interval[1])
    return place < len(intervals) and intervals[place][0] < end


def remaining(text: str, start: int, end: int, removed: list[Interval]) -> str:
    """What merged intervals leave of `text[start:end]`."""
    pieces = []
    # The first interval that ends after `start`: a paper has thousands, and this is asked for each of its headers.
    for low, high in removed[bisect_right(removed, start, key=lambda interval: interval[1]) :]:
        if low >= end:
            break
        pieces.append(text[start : max(start, low)])
        start = high
    return "".join([*pieces, text[start:end]])
