"""SLURM's reasons for a waiting job: some never end by themselves, and the operator is told what to change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.scheduling import planned

from megabiomed.launch import prospects, scheduler
from megabiomed.launch.pending import explained, is_shut_out, never_starts, outside_limits

VIP = "Job's_account_not_known,_so_it_can't_use_this_partition_(vip_allows_vip)"
PARTITIONS = {
    "main": {"Default": "YES", "MaxTime": "UNLIMITED", "MaxNodes": "4"},
    "short": {"Default": "NO", "MaxTime": "00:05:00", "MaxNodes": "UNLIMITED"},
    "long": {"Default": "NO", "MaxTime": "2-00:00:00", "MaxNodes": "UNLIMITED"},
}


@pytest.mark.parametrize(
    ("reason", "says"),
    [
        ("PartitionTimeLimit", "lower `time`"),
        (VIP, "set `account`"),
        ("QOSMaxWallDurationPerJobLimit", "for one job of its account or qos"),
        ("AssocMaxNodePerJobLimit", "for one job of its account or qos"),
        ("BadConstraints", "no node fits it"),
        ("InvalidQOS", "set `qos`"),
    ],
)
def test_reasons_that_never_end_come_with_a_remedy(reason: str, says: str) -> None:
    assert says in str(never_starts({"JobState": "PENDING", "Reason": reason}))
    assert never_starts({"JobState": "RUNNING", "Reason": reason}) is None


@pytest.mark.parametrize(
    "reason",
    ["None", "", "Priority", "Resources", "Dependency", "BeginTime", "AssocGrpCpuLimit", "QOSMaxJobsPerUserLimit"],
)
def test_a_job_that_only_waits_its_turn_is_left_in_peace(reason: str) -> None:
    assert explained({"JobState": "PENDING", "Reason": reason}) is None


@pytest.mark.parametrize("reason", ["JobHeldUser", "JobHeldAdmin", "job_requeued_in_held_state"])
def test_a_held_job_waits_for_a_person(reason: str) -> None:
    held = {"JobState": "PENDING", "Reason": reason}
    assert (never_starts(held), explained(held)) == (None, "it is held: megabiomed release")


def test_a_job_without_nodes_names_those_that_it_excludes() -> None:
    out = {"JobState": "PENDING", "Reason": "BadConstraints", "ExcNodeList": "n[1-2]"}
    assert "(excluded: n[1-2])" in str(never_starts(out))
    assert (is_shut_out(out), is_shut_out(out | {"ExcNodeList": "(null)"})) == (True, False)


@pytest.mark.parametrize(
    ("names", "nodes", "time", "limit"),
    [
        (None, 5, "10", "5 nodes are above MaxNodes 4 of partition main"),
        (None, 4, "10", None),
        ("short", 1, "00:10:00", "time 00:10:00 is above MaxTime 00:05:00 of partition short"),
        ("short,long", 1, "00:10:00", None),
        ("short,long", 1, "3-00", "MaxTime 00:05:00 of partition short; time 3-00 is above MaxTime 2-00:00:00"),
        ("unknown", 1, "3-00", None),
    ],
)
def test_limits_of_partitions(names: str | None, nodes: int, time: str, limit: str | None) -> None:
    found = outside_limits(PARTITIONS, names, nodes, time)
    assert found is None if limit is None else limit in str(found)


def test_the_reason_is_read_until_the_scheduler_has_considered_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {
        "7": iter(["None", "PartitionConfig", "PartitionTimeLimit"]),
        "8": iter([VIP, "Dependency", "Dependency"]),
        "9": iter(["Priority"] * 3),
    }
    monkeypatch.setattr(prospects, "_LOOK_S", (0.0,) * 9)
    monkeypatch.setattr(
        scheduler, "job", lambda number, patient: {"JobState": "PENDING", "Reason": next(answers[number])}
    )
    found = prospects.hopeless({"one": "7", "two": "8", "three": "9"})
    assert {name: reason for name, (reason, _) in found.items()} == {"one": "PartitionTimeLimit", "two": VIP}


def test_a_stage_that_waits_gets_no_estimate_and_a_warning_where_its_partition_has_a_limit(
    run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = "PartitionName=short Default=NO MaxTime=00:05:00 MaxNodes=UNLIMITED Nodes=n[1-4] \n"
    monkeypatch.setattr(scheduler, "call", lambda *words, patient: rows)
    first = planned(run_file, tmp_path).stage
    waits = replace(first, name="second", after=("pretrain",))
    short = replace(waits, name="third", sbatch={"partition": "short"}, time="10")
    said = dict.fromkeys(("pretrain", "second", "third"), "to start at noon")
    assert dict(prospects.estimates([first, waits, short], said)) == {
        "pretrain": "to start at noon",
        "second": "after pretrain",
        "third": "time 10 is above MaxTime 00:05:00 of partition short: it may wait for ever",
    }
