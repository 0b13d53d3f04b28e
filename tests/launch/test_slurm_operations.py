"""What operators type, on a real SLURM, without a training: every test takes seconds."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.operator import Operator
from support.scheduling import planned

from megabiomed.ground.errors import LaunchError
from megabiomed.launch.control import cancel, resubmit
from megabiomed.launch.status import status_of
from megabiomed.launch.submit import submit_all

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]


@pytest.fixture(autouse=True)
def login_node(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of this process reach the private cluster."""
    monkeypatch.setenv("SLURM_CONF", operator.cluster.environment["SLURM_CONF"])


def test_a_run_is_in_the_queue_under_every_path_that_leads_to_it(
    run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lustre").mkdir()
    (tmp_path / "scratch").symlink_to(tmp_path / "lustre")
    ids, _ = submit_all([planned(run_file, tmp_path / "scratch" / "run", begin="now+1hour")])
    monkeypatch.chdir(tmp_path / "lustre")
    for path in (
        Path("run"),
        Path("../lustre/run"),
        Path("../scratch/run"),
        tmp_path / "scratch" / ".." / "lustre" / "run",
    ):
        assert status_of(path)["job"] == ids["pretrain"]
        assert status_of(path)["state"] == "PENDING"
        assert "in the queue: pretrain: job" in next(resubmit(path, "this", dry_run=True))
        with pytest.raises(LaunchError, match=f"is in the queue already: got job {ids['pretrain']}, PENDING"):
            submit_all([planned(run_file, path.absolute(), begin="now+1hour")])
    assert list(cancel(Path("../lustre/run"), save=False, chain=True)) == [
        f"cancelled: job {ids['pretrain']} (PENDING)"
    ]
    assert list(cancel(Path("run"), save=False, chain=True)) == [
        f"nothing to cancel: job {ids['pretrain']} (CANCELLED)"
    ]
