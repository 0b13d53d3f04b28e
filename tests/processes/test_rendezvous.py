"""How ranks find each other: at the port that rank 0 was given, whatever else listens on the host."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from megabiomed.ground.errors import WorkerError
from megabiomed.processes.rendezvous import MEETING, _tell, _told

RANK = """
import os, torch
from megabiomed.processes import platform
platform.init_distributed(timeout_s=60, megatron=False)
mine = torch.tensor([float(os.environ["MINE"])])
torch.distributed.all_reduce(mine)
print(os.environ["MASTER_PORT"], mine.item(), flush=True)
torch.distributed.barrier()
platform.leave(0)
"""


@pytest.mark.timeout(120)
def test_two_runs_meet_on_one_host_beside_a_service_that_has_their_port(tmp_path: Path) -> None:
    """The last ranks are started first: they wait for a port that nobody has yet."""
    with socket.create_server(("127.0.0.1", 0)) as service:
        taken = str(service.getsockname()[1])
        ranks = [(run, rank) for rank in (1, 0) for run in (1, 10)]
        started = [
            subprocess.Popen(
                [sys.executable, "-c", RANK], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                env=os.environ | {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1",
                                  "MASTER_PORT": taken, MEETING: str(tmp_path / f"run{run}"), "MINE": str(run),
                                  "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            )
            for run, rank in ranks
        ]  # fmt: skip
        said = {}
        for place, process in zip(ranks, started):
            output, errors = process.communicate(timeout=90)
            assert process.returncode == 0, errors
            said[place] = output.split()
    for run in (1, 10):
        port = (tmp_path / f"run{run}").read_text()
        assert said[run, 0] == said[run, 1] == [port, str(2.0 * run)]
    assert len({taken, said[1, 0][0], said[10, 0][0]}) == 3


def test_a_rank_that_comes_first_waits_for_the_whole_file(tmp_path: Path) -> None:
    (tmp_path / ".ranks").write_text("47")  # on its way
    threading.Timer(0.3, _tell, (tmp_path / "ranks", 4711)).start()
    assert _told(tmp_path / "ranks", 20) == 4711
    assert [path.name for path in tmp_path.iterdir()] == ["ranks"]


def test_a_first_rank_that_never_comes_is_an_error_that_says_where_to_look(tmp_path: Path) -> None:
    with pytest.raises(
        WorkerError, match=r"rank 0 did not say where.*got no .*ranks in 0 s; see the log of rank 0"
    ) as found:
        _told(tmp_path / "ranks", 0.1)
    assert found.value.exit_code == 1  # the scheduler starts the run again
