"""Which failed starts are followed by one in the same allocation, and on which of its nodes; without a scheduler."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.scheduling import program

from megabiomed.launch import agent, answer, elastic, records, recovery, restart
from megabiomed.launch.causes import Failure
from megabiomed.launch.decision import AGAIN, Decision, Ending
from megabiomed.launch.guard import is_headless
from megabiomed.launch.restart import Allocation

REQUEUE = Decision("requeue", "failure 1 of 3")
FAILED = Ending("", 137, True, 5, 5, lasted_s=40.0, trained_s=10.0)
PLACE = Allocation(("n1", "n2", "n3"), ("n1", "n2"), 2)
JOB: dict[str, Any] = {
    "kind": "pretrain", "max_failures": 3, "ranks": 4, "nodes": 2, "spare_nodes": 1, "job_id": "7", "controls": [],
    "slow_factor": 2.0, "cluster": {"restart_in_allocation": True},
}  # fmt: skip


@pytest.fixture
def run(tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A submitted run that job 7 has begun on n1 and n2, with n3 as a spare; every node of it is well."""
    folder = tmp_path / "run"
    (folder / records.SLURM).mkdir(parents=True)
    (folder / records.SLURM / records.JOB).write_text(json.dumps(JOB))
    names = 'if [ "$2" = hostnames ]; then tr , "\\n" <<< "$3"'
    program(tools, "scontrol", f"{names}; else echo 'JobId=7 JobState=RUNNING Restarts=0 Command=x'; fi")
    answers(tools)
    for name, value in {"SLURM_JOB_ID": "7", agent.NODES: "n1,n2,n3", elastic.CHOSEN: "n1,n2"}.items():
        monkeypatch.setenv(name, value)
    agent._job.cache_clear()
    assert agent.begin(folder, "7.0.1").verb == "run"
    yield folder
    agent._job.cache_clear()


def answers(tools: Path, **problems: str) -> None:
    """An srun that answers for a node, except for those whose problem is empty."""
    cases = "".join(f"*nodelist={node}*) {_said(text)} ;; " for node, text in problems.items())
    program(tools, "srun", f'case "$*" in {cases} *) {_said("-")} ;; esac')


def _said(problem: str) -> str:
    said = json.dumps({"node": "x", "problems": [] if problem == "-" else [problem]})
    return f"echo '{said}'" if problem else "exit 1"


@pytest.mark.parametrize(
    ("bad", "chosen"),
    [([], ("n1", "n2")), (["n1"], ("n2", "n3")), (["n3"], ("n1", "n2")), (["n1", "n3"], None), (["n1", "n2"], None)],
)
def test_nodes_with_ranks_stay_and_spares_stand_in_for_bad_ones(bad: list[str], chosen: tuple[str, ...] | None) -> None:
    assert PLACE.choose(dict.fromkeys(bad, "bad")) == chosen


@pytest.mark.parametrize(
    ("decision", "ending", "left", "accused", "why"),
    [
        (REQUEUE, FAILED, 1000, {}, None),
        (REQUEUE, FAILED, 59, {}, "are left of the time limit, 60 s are needed"),
        (REQUEUE, replace(FAILED, lasted_s=100.0), 170, {}, "180 s are needed"),  # the first step took 90 s
        (REQUEUE, replace(FAILED, lasted_s=900.0, copied_s=860.0), 170, {}, None),  # the copies are there now
        (REQUEUE, replace(FAILED, warned=True), 1000, {}, ""),
        (REQUEUE, replace(FAILED, active=False), 1000, {}, ""),
        (REQUEUE, replace(FAILED, outcome="stopped"), 1000, {}, ""),
        (REQUEUE, replace(FAILED, outcome="stopped"), 1000, {"n2": "flips bits"}, None),
        (Decision("fail", "failure 3 of 3"), FAILED, 1000, {}, ""),
    ],
    ids=["failed", "limit", "slow start", "copies", "asked to leave", "cancelled", "stopped", "accused", "budget"],
)
def test_only_a_start_that_failed_in_time_is_followed_by_one_in_the_same_job(
    monkeypatch: pytest.MonkeyPatch,
    decision: Decision,
    ending: Ending,
    left: int,
    accused: dict[str, str],
    why: str | None,
) -> None:
    monkeypatch.setenv("MEGABIOMED_STOP_AT", str(time.time() + left))
    found = restart.refused(JOB, decision, ending, accused)
    assert found == why if not why else why in str(found)
    assert restart.refused(JOB | {"cluster": {}}, decision, ending, accused) == ""  # of an earlier release


def test_a_rank_that_dies_is_started_again_on_the_same_nodes(run: Path) -> None:
    decision = agent.end(run, "7.0.1", 137, warned=False)
    assert (decision.verb, decision.nodes) == (AGAIN, ("n1", "n2"))
    assert decision.line().startswith("again|n1,n2|failure 1 of 3")
    assert agent.begin(run, "7.0.2").verb == "run"
    assert records.history(run)[-1]["ranks_on"] == "n1,n2"


@pytest.mark.parametrize(
    ("problem", "says"), [("", "n2: no answer (the ranks wrote nothing)"), ("/run is full", "n2: /run is full")]
)
def test_a_node_that_is_silent_or_bad_is_replaced_and_not_used_again(
    run: Path, tools: Path, monkeypatch: pytest.MonkeyPatch, problem: str, says: str
) -> None:
    answers(tools, n2=problem)
    decision = agent.end(run, "7.0.1", 137, warned=False)
    assert (decision.verb, decision.nodes, f"{says}; n3 instead" in decision.reason) == (AGAIN, ("n1", "n3"), True)
    assert records.history(run)[-1]["exclude"] == ["n2"]
    monkeypatch.setenv(elastic.CHOSEN, "n1,n3")
    agent.begin(run, "7.0.2")
    answers(tools)  # n2 answers again, but was left out
    assert agent.end(run, "7.0.2", 137, warned=False).nodes == ("n1", "n3")
    agent.begin(run, "7.0.3")
    answers(tools, n3="")
    (run / "checkpoints" / "step_00000005").mkdir(parents=True)
    (run / "checkpoints" / "step_00000005" / "COMMITTED").touch()  # or it would be the third failure
    decision = agent.end(run, "7.0.3", 137, warned=False)
    assert (decision.verb, decision.exclude) == ("requeue", ("n2", "n3"))
    assert "not restarted in the allocation: 1 of 2 nodes are well (n2: was left out before" not in decision.reason
    assert "not restarted in the allocation: 1 of 2 nodes are well (n3: no answer" in decision.reason


def test_a_node_on_which_two_starts_failed_first_is_replaced(run: Path) -> None:
    failure = Failure(3, "n2", "Killed (SIGKILL)", suspect="n2")
    assert restart.restarted(run, "7.0.1", PLACE, REQUEUE, failure, {})[0].nodes == ("n1", "n2")
    records.append(run, "end", None, incarnation="7.0.1", outcome="", first_failure=failure.record())
    decision, left_out = restart.restarted(run, "7.0.1", PLACE, REQUEUE, failure, {})
    assert (decision.nodes, left_out) == (("n1", "n3"), {"n2": "failed twice in a row"})


def test_a_spare_stands_in_for_a_node_that_the_preflight_finds_bad(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "bad_nodes", lambda *words: {"n1": "no answer"})
    decision = agent.judge(run, "7.0.1")
    assert (decision.verb, decision.line().split("|")[1]) == ("run", "n2,n3")
    assert records.history(run)[-1]["exclude"] == ["n1"]
    monkeypatch.setattr(agent, "bad_nodes", lambda *words: {"n1": "no answer", "n3": "no answer"})
    assert agent.judge(run, "7.0.1").verb == "requeue"


def test_a_process_of_another_step_of_the_job_is_a_rank_that_was_left_over(monkeypatch: pytest.MonkeyPatch) -> None:
    class Process:
        pid = 5

        def __init__(self, **variables: str) -> None:
            self._variables = {"MEGABIOMED_LOGS": "x", "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"} | variables

        def name(self) -> str:
            return "python"

        def status(self) -> str:
            return "running"

        def environ(self) -> dict[str, str]:
            return self._variables

    mine = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "3"}
    others = [Process(SLURM_STEP_ID="3"), Process(SLURM_JOB_ID="8"), Process(SLURM_STEP_ID="4294967291")]
    monkeypatch.setattr(answer, "_LEAVE_S", 0.0)
    monkeypatch.setattr(answer.psutil, "process_iter", lambda: iter(others))
    assert answer.left_over(mine) == []
    monkeypatch.setattr(answer.psutil, "process_iter", lambda: iter([*others, Process()]))
    assert answer.left_over(mine) == ["ranks of the earlier start do not end (process 5)"]


def test_a_recovery_is_timed_from_the_fault_to_the_first_new_step(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agent.end(run, "7.0.1", 137, warned=False)
    agent.begin(run, "7.0.2")
    fault = time.time() - 10
    for start, name, moment in (("7.0.1", "fault", fault), ("7.0.2", "started", fault + 4)):
        (run / "logs" / start).mkdir(parents=True)
        (run / "logs" / start / name).write_text(str(moment))
    claim = records.last_begin(run)["claim"]
    event = {"time": records.now(), "event": "first_step", "phases": {"imports": 2.5}, "claim": claim}
    (run / records.EVENTS).write_text(json.dumps(event) + "\n")
    recovery.main(run, "7.0.2")
    assert "recovered in 10." in capsys.readouterr().out
    record = records.history(run)[-1]
    assert (record["inside"], record["fault_to_start_s"], record["imports_s"]) == (True, 4.0, 2.5)
    recovery.main(run, "7.0.1")  # no failure came before it
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("fields", "headless"),
    [({}, False), ({"NodeList": "n2"}, True), ({"JobState": "PENDING"}, None), ({"Restarts": "1"}, None)],
)
def test_a_job_without_the_node_of_its_script_is_headless(
    tools: Path, fields: dict[str, str], headless: bool | None
) -> None:
    program(tools, "scontrol", 'tr , "\\n" <<< "$3"')
    job = {"JobState": "RUNNING", "Restarts": "0", "BatchHost": "n1", "NodeList": "n1,n2"} | fields
    assert is_headless(job, "0") is headless
    assert os.environ["PATH"].startswith(str(tools))
