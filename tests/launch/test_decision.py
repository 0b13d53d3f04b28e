"""The state machine of a stage, without a scheduler."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megabiomed.launch import records
from megabiomed.launch.decision import Decision, Ending, after_preflight, after_run, before_run, failures, without_bad


def ended(outcome: str = "", code: int = 1, before: int = 10, after: int = 10, active: bool = True) -> Ending:
    return Ending(outcome, code, active, before, after)


def failure(before: int, after: int) -> dict[str, Any]:
    return {"kind": "end", "incarnation": "1.0.1", "outcome": "", "before": before, "after": after}


@pytest.mark.parametrize(
    ("ending", "verb", "code"),
    [
        (ended("finished", 0), "done", 1),
        (ended("stopped", 0), "requeue", 1),
        (ended("stopped", 0, active=False), "done", 1),
        (ended("ended", 0), "fail", 3),
        (ended("ended", 0, active=False), "fail", 3),
        (ended("", 2), "fail", 2),
        (ended("", 137), "requeue", 1),
        (ended("", 143, active=False), "done", 1),
    ],
    ids=[
        "finished",
        "stopped",
        "stopped by a cancel",
        "kill switch",
        "kill switch and cancel",
        "wrong input",
        "a rank died",
        "cancelled in the middle",
    ],
)
def test_what_follows_an_incarnation(ending: Ending, verb: str, code: int) -> None:
    found = after_run(ending, [], 3)
    assert (found.verb, found.code) == (verb, code)


def test_failures_without_progress_use_up_the_budget() -> None:
    history = [failure(0, 10), failure(10, 10)]
    assert failures(history, 10) == 2
    assert after_run(ended(), history, 4).verb == "requeue"
    assert after_run(ended(), history, 3).verb == "fail"


def test_a_warning_that_comes_before_the_ranks_listen_is_no_failure_but_patience_ends() -> None:
    early = Ending("", 138, True, 10, 10, warned=True)
    assert after_run(early, [failure(10, 10)] * 2, 3).verb == "requeue"
    warned = [failure(10, 10) | {"warned": True}] * 15
    assert failures([failure(10, 10), *warned], 10) == 1
    assert after_run(early, warned[:14], 1).verb == "fail"
    assert after_run(early, warned[:4], 1).verb == "requeue"


def test_progress_and_stops_give_the_whole_budget_back() -> None:
    history = [failure(10, 10), failure(10, 10)]
    assert after_run(ended(after=11), history, 3).verb == "requeue"
    stopped = {"kind": "end", "incarnation": "x", "outcome": "stopped", "before": 10, "after": 10}
    assert after_run(ended(), [*history, stopped], 3).verb == "requeue"


@given(st.lists(st.booleans(), max_size=30), st.integers(1, 5))
def test_a_run_that_always_fails_ends_and_one_that_advances_never_does(progress: list[bool], budget: int) -> None:
    history: list[dict[str, Any]] = []
    step, row = 0, 0
    for advances in progress:
        before, step = step, step + advances
        row = 1 if advances else row + 1
        found = after_run(ended(before=before, after=step), history, budget)
        assert found.verb == ("fail" if row >= budget else "requeue")
        history.append(failure(before, step))


def test_a_finished_or_killed_run_does_not_begin() -> None:
    assert before_run(True, False, [], 5, 3).verb == "done"
    assert before_run(True, True, [], 5, 3).verb == "done"
    assert (before_run(False, True, [], 5, 3).verb, before_run(False, True, [], 5, 3).code) == ("fail", 3)
    assert before_run(False, False, [], 5, 3).verb == "run"


def test_incarnations_that_vanish_again_and_again_end_the_stage_some_day() -> None:
    lost = [{"kind": "begin", "incarnation": f"7.{n}", "step": 40} for n in range(15)]
    assert before_run(False, False, lost[:14], 40, 3).verb == "run"
    assert before_run(False, False, lost, 40, 3).verb == "fail"
    assert before_run(False, False, lost, 45, 3).verb == "run"


def test_a_new_submission_has_a_fresh_budget_and_still_knows_the_bad_nodes(tmp_path: Path) -> None:
    (tmp_path / "slurm").mkdir()
    records.renew(tmp_path)
    assert records.history(tmp_path) == []  # the first submission has nothing to forget

    def again(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        (tmp_path / "slurm" / "incarnations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        records.renew(tmp_path)
        return records.history(tmp_path)

    lost = [{"kind": "begin", "incarnation": f"7.{n}", "step": 40} for n in range(15)]
    assert before_run(False, False, again(lost), 40, 3).verb == "run"
    assert before_run(False, False, [*again(lost), *lost], 40, 3).verb == "fail"
    assert after_run(ended(), again([failure(10, 10)] * 3), 3).reason.startswith("failure 1 of 3")
    early = Ending("", 138, True, 10, 10, warned=True)
    assert after_run(early, again([failure(10, 10) | {"warned": True}] * 15), 3).verb == "requeue"
    bad = [{"kind": "preflight", "incarnation": "1", "exclude": ["n7"]}] * 15
    found = after_preflight({"n2": "x"}, 4, again(bad), 3)
    assert (found.verb, found.exclude) == ("requeue", ("n2", "n7"))
    assert after_preflight({"n2": "x"}, 4, bad, 3).verb == "fail"
    all_bad = [{"kind": "preflight", "incarnation": "1", "exclude": [], "all": True}] * 2
    assert after_preflight({"n1": "x", "n2": "x"}, 2, again(all_bad), 3).verb == "requeue"


def test_bad_nodes_are_excluded_together_with_those_known_before() -> None:
    history = [{"kind": "preflight", "incarnation": "1", "exclude": ["n7"]}]
    found = after_preflight({"n2": "2 of 8 GPUs are visible"}, 4, history, 3)
    assert (found.verb, found.exclude) == ("requeue", ("n2", "n7"))
    assert found.line() == "requeue|n2,n7|bad nodes: n2: 2 of 8 GPUs are visible"


def test_nodes_that_the_ranks_found_bad_are_excluded_unless_all_of_several_are_or_nothing_follows() -> None:
    again, end = Decision("requeue", "failure 1 of 3"), Decision("fail", "failure 3 of 3")
    known = [{"kind": "preflight", "exclude": ["n9"]}]
    assert without_bad(again, {"n2": "corruption"}, 2, known).exclude == ("n2", "n9")
    assert without_bad(again, {"n2": "corruption"}, 1, known).exclude == ("n2", "n9")
    assert without_bad(again, {"n1": "corruption", "n2": "corruption"}, 2, known) == again
    assert without_bad(end, {"n2": "corruption"}, 2, known) == end
    assert without_bad(again, {}, 2, known) == again


def test_all_nodes_bad_is_tried_again_on_the_same_nodes_and_then_given_up() -> None:
    once = {"kind": "preflight", "incarnation": "1", "exclude": [], "all": True}
    for before, verb in [(0, "requeue"), (1, "requeue"), (2, "fail")]:
        found = after_preflight({"n1": "x", "n2": "x"}, 2, [once] * before, 3)
        assert (found.verb, found.exclude) == (verb, ())
    well = {"kind": "preflight", "incarnation": "1", "exclude": [], "all": False}
    assert after_preflight({"n1": "x", "n2": "x"}, 2, [once, once, well], 3).verb == "requeue"


def test_a_reason_stays_on_one_line() -> None:
    assert Decision("fail", "two\nlines | here", code=2).line() == "fail|2|two lines | here"


def test_starts_that_hardly_train_end_the_stage_some_day_and_say_so_from_the_first() -> None:
    crawl = Ending("stopped", 0, True, 10, 11, lasted_s=120.0, trained_s=2.0)
    before = {"kind": "end", "incarnation": "x", "outcome": "stopped", "before": 9, "after": 10, "crawled": True}
    first = after_run(crawl, [], 3)
    assert first.verb == "requeue"
    assert first.reason == (
        "stopped and saved, but this start trained for 2 of 120 s (1 steps; 1 of 15 such starts in a row)"
    )
    assert after_run(crawl, [before] * 13, 3).verb == "requeue"
    assert after_run(crawl, [before] * 14, 3).verb == "fail"
    well = before | {"crawled": None}
    assert after_run(crawl, [*[before] * 14, well], 3).verb == "requeue"
    for ending in (replace(crawl, trained_s=60.0), replace(crawl, trained_s=None)):
        assert after_run(ending, [before] * 14, 3).reason == "stopped and saved"
