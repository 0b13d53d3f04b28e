"""The self-test of a cluster on a real SLURM: everything passes on a good one, and a broken one is named by its verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.operator import CLUSTER, Operator
from support.zygote import run_python

from megabiomed.launch.selftest.plan import Shape, plan

BROKEN = """#!/bin/bash
[ "$SLURMD_NODENAME" = n2 ] && exec /opt/lost/python "$@"
if [ "$SLURM_PROCID" = 1 ] && [[ "$*" == *selftest.several* ]]; then
  python=$1
  shift 2
  exec "$python" -c "$WRONG_NORM" "$@"
fi
exec "$@"
"""
WRONG_NORM = """
import runpy, sys, torch
true = torch.Tensor.rsqrt_
torch.Tensor.rsqrt_ = lambda x: true(x).mul_(1.001)
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
"""A rank whose norms are one thousandth off, as no check of the node finds."""

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]


def verdict_of(operator: Operator, code: int, *words: str) -> dict[str, Any]:
    """Submit a self-test of two nodes, wait for it, and read what it found."""
    command = [
        "-m",
        "megabiomed.cli",
        "submit",
        "--selftest",
        "--cluster",
        str(operator.profile),
        "--nodes",
        "2",
        "--wait",
    ]
    environment = {**operator.cluster.environment, "OMP_NUM_THREADS": "1"}
    done = run_python([*command, *words], environment, timeout_s=850, where=operator.folder)
    (run,) = (operator.folder / "runs").iterdir()
    assert done.returncode == code, done.stdout[-4000:] + done.stderr[-2000:] + operator.logs(run)
    found: dict[str, Any] = json.loads((run / "verdict.json").read_text())
    assert found["line"] in done.stdout
    assert str(run / "verdict.html") in found["line"]
    return found


@pytest.mark.slow
def test_a_good_cluster_passes_every_check(operator: Operator, tmp_path: Path) -> None:
    found = verdict_of(operator, 0)
    assert found["verdict"] == "passed"
    status = {check["name"]: check["status"] for check in found["checks"]}
    assert list(status) == [check.name for check in plan(Shape(2, 2, 0))]
    assert {name for name, value in status.items() if value != "passed"} == {"host and device"}
    figures = {check["name"]: check["figures"] for check in found["checks"]}
    assert all(figure["value"] > 0 for name in ("write", "read", "all-reduce") for figure in figures[name])
    (run,) = (tmp_path / "runs").iterdir()
    assert operator.status(run)[0]["state"] == "FINISHED"
    assert "dp-fsdp2" in (run / "verdict.html").read_text()


@pytest.mark.slow
def test_a_node_without_the_software_and_a_rank_that_computes_wrongly_are_named(
    operator: Operator, tmp_path: Path
) -> None:
    script = tmp_path / "broken.sh"
    script.write_text(BROKEN)
    script.chmod(0o755)
    operator.configure(wrap=[str(script)], environment={**CLUSTER["environment"], "WRONG_NORM": WRONG_NORM})
    found = verdict_of(operator, 1, "--sbatch", "nodelist=n[1-2]")
    checks = {check["name"]: check for check in found["checks"]}
    assert "n2: no answer" in checks["preflight"]["reason"]
    assert "all later checks are on n1 alone" in checks["preflight"]["reason"]
    # The other phases are done, and the topologies are judged.
    assert [checks[name]["status"] for name in ("write", "all-reduce", "kernels", "corpus")] == ["passed"] * 4
    assert "from that of one process, relative: at most 1e-05" in checks["dp-zero1"]["reason"]
    assert checks["pp2-tp2-zero3"]["status"] == "skipped"
    assert "does not fit the topology" in checks["pp2-tp2-zero3"]["reason"]
    (page,) = tmp_path.glob("runs/*/verdict.html")
    assert "do not train with this topology here" in page.read_text()


def test_a_selftest_that_is_asked_to_leave_says_what_it_did_not_check(operator: Operator, tmp_path: Path) -> None:
    said = operator.type("submit", "--selftest", "--cluster", operator.profile, "--nodes", 1)
    number = next(line.split()[3] for line in said.splitlines() if line.startswith("submitted: "))
    (run,) = (tmp_path / "runs").iterdir()
    log = run / "slurm" / "job.log"
    operator.until(lambda: log.is_file() and "[1/8] preflight" in log.read_text(), run)
    operator.cluster.run("scancel", "--batch", "--signal=USR1", number)
    assert operator.final(number, run)["JobState"] == "FAILED"
    found = json.loads((run / "verdict.json").read_text())
    assert found["line"] in log.read_text()
    reasons = {check["name"]: check["reason"] for check in found["checks"]}
    assert "not done: the job was asked to end by SIGUSR1" in reasons["kill and resume"]
