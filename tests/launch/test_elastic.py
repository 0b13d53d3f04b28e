"""A start with fewer nodes than were asked for: it waits, goes on with those that it has, and grows back."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.scheduling import program

from megabiomed.launch import elastic, records
from megabiomed.launch.decision import Decision

JOB = {"sizes": [4, 2, 1], "nodes": 4, "ranks": 8, "shrink_after": 100}
RUN = Decision("run", "begin at step 5")
NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def partition(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "now", NOW.isoformat)
    program(tools, "scontrol", "printf 'n1\\nn2\\nn3\\nn4\\n'")
    program(tools, "sinfo", "printf 'n1|idle\\nn2|idle\\nn3|idle\\nn4|drained\\n'")


def begin(seconds_ago: float | None, **values: Any) -> dict[str, Any]:
    short = {} if seconds_ago is None else {elastic.SHORT_SINCE: ago(seconds_ago)}
    return {"kind": "begin", "incarnation": "7.0.1", "nodes": "n[1-4]", **short, **values}


def ago(seconds: float) -> str:
    return (NOW - timedelta(seconds=seconds)).isoformat(timespec="seconds")


@pytest.mark.parametrize(
    ("have", "history", "waited_s", "verb", "use", "says"),
    [
        (4, [], 0.0, "run", 4, "begin at step 5"),
        (4, [begin(500)], 0.0, "run", 4, "begin at step 5, with all 4 nodes again"),
        (3, [], 0.0, "requeue", 0, "3 of 4 nodes: waits for the others for 100 s more, then goes on with 2"),
        (3, [begin(None)], 30.0, "requeue", 0, r"3 of 4 nodes \(without n4 drained\): waits for the others for 70"),
        (3, [], 101.0, "run", 2, "with 3 of 4 nodes after 101 s, 1 of them idle, as the run fits 2 nodes"),
        (2, [begin(500)], 0.0, "run", 2, "begin at step 5 with 2 of 4 nodes after"),
        # The clock begins again when it loses nodes again.
        (3, [begin(500), begin(None)], 0.0, "requeue", 0, "waits"),
        (3, [begin(None), begin(50, kind=elastic.WAITS)], 0.0, "requeue", 0, "waits for the others for 50 s"),
        (3, [begin(None), begin(150, kind=elastic.WAITS)], None, "run", 2, "begin at step 5"),
        (3, [begin(0, short_since="damaged")], None, "requeue", 0, "waits"),
    ],
)  # fmt: skip
def test_it_waits_for_its_nodes_and_then_goes_on(
    have: int, history: list[dict[str, Any]], waited_s: float | None, verb: str, use: int, says: str
) -> None:
    found, noted = elastic.fitted(RUN, JOB, [f"n{i}" for i in range(1, have + 1)], history, waited_s)
    assert (found.verb, len(found.nodes)) == (verb, use)
    assert re.search(says, found.reason)
    assert (elastic.SHORT_SINCE in noted) == (have < 4)
    kind = "begin" if verb == "run" else elastic.WAITS
    shown = elastic.shrunk([*history, {"kind": kind, **noted}])
    assert (shown is None) == (have == 4)
    assert shown is None or (shown["asked"], shown["waits"], shown["used"]) == (4, verb == "requeue", use or None)


def test_what_never_shrinks_uses_what_it_was_given() -> None:
    for job in ({}, {"sizes": [4]}, {"sizes": []}, {"sizes": None}):
        assert elastic.fitted(RUN, job, ["n1"], [], 0.0) == (RUN, {})
        assert elastic.least(job, 4) == 4
    assert elastic.least(JOB, 4) == 1
    stop = Decision("done", "finished already")
    assert elastic.here(stop, JOB, {}, [], "n1") == (stop, {})


def test_fewer_nodes_than_the_least_go_back_to_the_queue() -> None:
    found, noted = elastic.fitted(RUN, {**JOB, "sizes": [4, 3]}, ["n1", "n2"], [begin(5000)], 0.0)
    assert (found.verb, found.reason) == ("requeue", "2 of 4 nodes: too few, the run needs 3")
    assert noted["asked"] == 4


def test_the_nodes_to_use_reach_the_batch_script() -> None:
    assert Decision("run", "well", nodes=("n1", "n2")).line() == "run|n1,n2|well"
    assert Decision("requeue", "bad", exclude=("n3",)).line() == "requeue|n3|bad"
    assert elastic.ranks_of(JOB, {"used": 2}) == 4
    assert elastic.ranks_of(JOB, {}) == 8
    assert elastic.waited_s({"EligibleTime": "2026-01-01T10:00:00", "StartTime": "2026-01-01T10:01:30"}) == 90
    assert elastic.waited_s({"EligibleTime": "Unknown", "StartTime": "2026-01-01T10:01:30"}) is None
