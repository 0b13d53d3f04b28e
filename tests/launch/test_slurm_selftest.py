"""The self-test of a cluster on a real SLURM: everything passes on a good one, and a broken one is named by its verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.operator import Operator
from support.zygote import run_python

from megabiomed.launch.selftest.plan import Shape, plan

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
