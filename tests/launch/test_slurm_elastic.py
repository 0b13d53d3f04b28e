"""A run that loses a node for good goes on with fewer, and grows back when the node is there again, on a real SLURM."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pytest
from support.operator import Operator, run_words
from support.reference import Reference
from support.runs import events, losses
from support.scheduling import planned

from megabiomed.launch import records
from megabiomed.launch.sizes import with_sizes
from megabiomed.launch.status import status_of
from megabiomed.launch.status_table import row
from megabiomed.launch.submit import render, submit_all

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1800)]
STEPS = 60


def begun(run: Path, count: int) -> list[dict[str, object]]:
    """The starts of a run with so many nodes in use."""
    return [each for each in records.history(run) if each["kind"] == "begin" and each.get("used") == count]


def test_a_drained_node_is_waited_for_then_left_out_then_taken_again(
    operator: Operator, run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranks that are shell scripts."""
    monkeypatch.setenv("SLURM_CONF", operator.cluster.environment["SLURM_CONF"])
    (tmp_path / "rank").write_text("#!/bin/bash\necho $SLURM_PROCID of $SLURM_NTASKS on $SLURMD_NODENAME\nsleep 100\n")
    (tmp_path / "rank").chmod(0o755)
    run, stage = tmp_path / "run", planned(run_file, tmp_path / "run").stage
    own = {"python": tmp_path / "rank", "host_python": Path(sys.executable), "preflight": False, "tasks_per_node": 1}
    cluster = stage.cluster.model_copy(update={**own, "shrink_after": 3})
    stage = with_sizes(replace(stage, cluster=cluster, nodes=4))
    assert stage.sizes == (4, 2)  # tensor parallel 2 x data parallel 2
    operator.cluster.run("scontrol", "update", "nodename=n4", "state=drain", "reason=test")
    try:
        (job,) = submit_all([render(stage)])[0].values()
        operator.until(lambda: begun(run, 2) and list(run.glob("logs/*/rank_1.log")), run)
        kinds = [each["kind"] for each in records.history(run)]
        assert (kinds[0], kinds[-1]) == ("waits", "begin")
        (begin,) = begun(run, 2)
        assert begin["nodes"] == "n[1-3]"
        said = sorted(file.read_text().strip() for file in run.glob("logs/*/rank_*.log"))
        assert said == ["0 of 2 on n1", "1 of 2 on n2"]
        assert row(status_of(run))[-1].startswith("2 of 4 nodes for ")
        assert operator.cluster.job(job)["NumNodes"] == "3"
    finally:
        operator.cluster.run("scontrol", "update", "nodename=n4", "state=resume")
    operator.cluster.run("scontrol", "requeue", job)
    operator.until(lambda: begun(run, 4), run)
    assert str(begun(run, 4)[0]["reason"]).endswith("with all 4 nodes again")
    assert status_of(run)["shrunk"] is None


@pytest.mark.slow
def test_a_node_without_power_is_done_without_until_it_is_back(
    operator: Operator, tmp_path: Path, reference: Reference
) -> None:
    run = tmp_path / "run"
    operator.configure(tasks_per_node=1, shrink_after=10)
    said = operator.type("submit", operator.run_file, "--cluster", operator.profile, "--nodes", 4, "--dry-run",
                         *run_words(run, STEPS))  # fmt: skip
    assert "goes on with fewer nodes after 10 s: 2" in said
    (job,) = operator.submit(None, *run_words(run, STEPS), nodes=4).values()
    operator.until(lambda: operator.step(run) >= 8, run)
    operator.cluster.power_off("n4")
    operator.until(lambda: begun(run, 2), run)
    began = int(str(begun(run, 2)[0]["step"]))
    assert began >= 5
    operator.until(lambda: operator.step(run) >= began + 10, run)
    with operator.frozen(run, rank=1, restarts=int(operator.cluster.job(job)["Restarts"])):
        assert operator.status(run)[0]["shrunk"]["used"] == 2
        operator.cluster.start_node("n4")
        operator.until(lambda: operator.cluster.run("sinfo", "-h", "-n", "n4", "-o", "%T").strip() == "idle", run)
    operator.cluster.run("scontrol", "requeue", job)
    assert operator.final(job, run, 1500)["JobState"] == "COMPLETED", operator.logs(run)
    # SLURM may end a start on a node that came back, in the belief that it is the one before: that one is requeued again.
    used = [each.get("used") for each in records.history(run) if each["kind"] == "begin"]
    assert [each for each, _ in groupby(used)] == [4, 2, 4]

    expected, found = reference.losses(STEPS), losses(run)
    assert found.keys() == expected.keys()
    assert max(abs(found[step] - expected[step]) for step in expected) <= 1e-5
    assert events(run)[-1]["ids_hash"] == reference.ids_hash(STEPS)
    resumed = [event for event in events(run) if event["event"] == "resume"]
    shrank = ["ranks: 4 -> 2" in event["changed"] for event in resumed]
    assert shrank[0]
    assert sum(shrank) == 1
    assert json.loads((run / "slurm" / "job.json").read_text())["sizes"] == [4, 2]
