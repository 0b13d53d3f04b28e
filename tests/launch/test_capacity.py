"""A job never waits for nodes that it excludes itself: bad nodes are let in again, the least bad first, or it gives up."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.scheduling import program

from megabiomed.launch.capacity import can_start, within_capacity
from megabiomed.launch.decision import Decision
from megabiomed.launch.preflight_verdict import is_slow

SLOW = "slow matrix product: 2.0000 s, usual 1.0000 s"
NODES = {"n1", "n2", "n3", "n4", "own"}


@pytest.mark.parametrize(
    ("bad", "needed", "verb", "exclude", "says"),
    [
        ({"n1": "scr is full"}, 2, "requeue", "n1 old own", "bad nodes"),
        ({"n1": "scr is full"}, 3, "requeue", "n1 own", "so these are tried again: old"),
        ({"n1": "scr is full"}, 4, "fail", "", "too few others are left: repair them, then megabiomed resubmit"),
        ({"n1": SLOW}, 4, "run", "", "they are used, because too few others are left"),
        ({"n1": SLOW, "n2": "no answer"}, 3, "requeue", "n2 own", "so slow ones are used"),
        ({"n1": SLOW, "n2": "no answer"}, 4, "fail", "", "repair them"),
    ],
)
def test_the_least_bad_nodes_are_let_in_where_too_few_are_left(
    bad: dict[str, str], needed: int, verb: str, exclude: str, says: str
) -> None:
    wanted = Decision("requeue", "bad nodes: ...", tuple({"old", *bad}))
    # `old` was bad at an earlier start and may be repaired; the partition has it in place of n4.
    nodes = NODES - {"n4"} | {"old"}
    found = within_capacity(wanted, bad, ["own"], lambda out: len(nodes - out) >= needed)
    assert (found.verb, " ".join(found.exclude)) == (verb, exclude)
    assert says in found.reason


def test_a_node_is_slow_only_where_nothing_else_is_wrong_with_it() -> None:
    assert is_slow(SLOW)
    assert not is_slow(f"scr is full, {SLOW}")
    assert not is_slow("its clock is +300 s off")


@pytest.mark.parametrize(
    ("sinfo", "sbatch", "expected"),
    [
        ("n1|idle", "", False),  # two are needed
        ("n1|idle\nn2|mixed", "", True),
        ("n1|idle\nn2|mixed", "Requested node configuration is not available", False),
        ("n1|idle\nn2|down*", "Requested node configuration is not available", True),  # until n2 is back
        ("n1|idle\nn2|idle", "Job violates accounting/QOS policy", True),
        (None, "", True),
    ],
)
def test_the_scheduler_is_asked_and_believed_where_it_knows(
    tools: Path, tmp_path: Path, sinfo: str | None, sbatch: str, expected: bool
) -> None:
    program(tools, "sinfo", "exit 1" if sinfo is None else f"printf '{sinfo}\\nbad|idle\\n'")
    program(tools, "sbatch", f"echo '{sbatch}' >&2; [ -z '{sbatch}' ]")
    script = tmp_path / "job.sh"
    script.touch()
    assert can_start({"Partition": "main"}, script, 2, {"bad"}) == expected
    assert can_start({}, script, 99, {"bad"})
