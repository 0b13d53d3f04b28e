"""A failed start is followed by the next one in the same job, on a real SLURM."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from support.operator import LONG, SHORT, Operator, run_words
from support.reference import Reference

from megabiomed.launch import records
from megabiomed.launch.recovery import RECOVERY

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]


def starts(run: Path) -> list[dict[str, Any]]:
    return [record for record in records.history(run) if record["kind"] == "begin"]


def stands_still(operator: Operator, run: Path, count: int) -> None:
    """The ranks of the last of so many starts get ready, and one of them, for which the others wait, stands still."""
    operator.until(lambda: len(starts(run)) == count, run)
    log = run / "logs" / starts(run)[-1]["incarnation"] / "rank_0.log"
    operator.until(lambda: log.is_file() and log.stat().st_size, run)
    operator.kill_rank(run, 3, signal.SIGSTOP)


def nodes_of(operator: Operator, nodes: str) -> list[str]:
    return operator.cluster.run("scontrol", "show", "hostnames", nodes).split()


def test_a_killed_rank_and_a_node_without_power_cost_neither_the_job_nor_a_wait(
    operator: Operator, tmp_path: Path, reference: Reference
) -> None:
    run = tmp_path / "run"
    operator.configure(spare_nodes=1, max_failures=3)
    (job,) = operator.submit(None, *run_words(run, SHORT, "train.log_every=1", "checkpoint.save_every=2")).values()
    stands_still(operator, run, 1)
    operator.kill_rank(run, 3)
    stands_still(operator, run, 2)
    first, last = nodes_of(operator, starts(run)[-1]["ranks_on"])
    (spare,) = {*nodes_of(operator, starts(run)[-1]["nodes"])} - {first, last}
    operator.cluster.power_off(last)
    found = operator.final(job, run)
    assert (found["JobState"], found["Restarts"]) == ("COMPLETED", "0"), operator.logs(run)
    operator.ends_as(run, reference, SHORT)
    assert nodes_of(operator, starts(run)[-1]["ranks_on"]) == [first, spare]
    ends = [record for record in records.history(run) if record["kind"] == "end"]
    assert [record["decision"] for record in ends] == ["again", "again", "done"]
    assert f"rank 3 on {last} failed first: Killed (SIGKILL)" in ends[0]["reason"]
    assert f"{last}: no answer (last words of the ranks at " in ends[1]["reason"]
    assert ends[1]["exclude"] == [last]
    kept = [record for record in records.history(run) if record["kind"] == RECOVERY]
    assert all(record["inside"] and record["total_s"] > 0 for record in kept)
    assert (run / "slurm" / "job.log").read_text().count("recovered in ") == len(kept) > 0


@pytest.mark.slow
def test_a_job_that_outlives_its_nodes_is_requeued_when_it_loses_its_head_node(
    operator: Operator, tmp_path: Path, reference: Reference
) -> None:
    run = tmp_path / "run"
    operator.configure(spare_nodes=1)
    (job,) = operator.submit(None, *run_words(run, SHORT, "checkpoint.save_every=2")).values()
    stands_still(operator, run, 1)
    head = operator.cluster.job(job)["BatchHost"]
    operator.cluster.power_off(head)
    found = operator.final(job, run)
    assert (found["JobState"], found["Restarts"]) == ("COMPLETED", "1"), operator.logs(run)
    assert found["BatchHost"] != head
    operator.ends_as(run, reference, SHORT)


@pytest.mark.slow
@pytest.mark.parametrize("no_kill", [True, False], ids=["outlives its nodes", "ends with its nodes"])
def test_without_a_spare_a_lost_node_costs_a_requeue(
    operator: Operator, tmp_path: Path, reference: Reference, no_kill: bool
) -> None:
    run = tmp_path / "run"
    operator.configure(no_kill=no_kill)
    (job,) = operator.submit(None, *run_words(run, SHORT, "checkpoint.save_every=2")).values()
    stands_still(operator, run, 1)
    lost = nodes_of(operator, starts(run)[-1]["nodes"])[-1]
    operator.cluster.power_off(lost)
    found = operator.final(job, run)
    assert (found["JobState"], found["Restarts"]) == ("COMPLETED", "1"), operator.logs(run)
    assert lost not in nodes_of(operator, found["NodeList"])
    operator.ends_as(run, reference, SHORT)


@pytest.mark.slow
def test_a_rank_that_stands_still_is_replaced_in_the_same_job(
    operator: Operator, tmp_path: Path, reference: Reference
) -> None:
    run = tmp_path / "run"
    words = run_words(run, LONG, "checkpoint.save_every=50", "train.hang_timeout_s=20")
    (job,) = operator.submit(None, *words).values()
    operator.until(lambda: records.committed_step(run) > 0, run)
    operator.kill_rank(run, 3, signal.SIGSTOP)
    found = operator.final(job, run)
    assert (found["JobState"], found["Restarts"]) == ("COMPLETED", "0"), operator.logs(run)
    assert "rank 3: no answer" in operator.status(run)[0]["endings"][0]["reason"]
    operator.ends_as(run, reference, LONG)
