"""How ranks find each other: at the port that rank 0 was given, whatever else listens on the host."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from megabiomed.ground.errors import RendezvousError
from megabiomed.processes.rendezvous import MEETING, _listening_at, _tell, _told

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
WAITS = """
import sys
from megabiomed.processes.ranks import join
from megabiomed.processes import platform, rendezvous
rendezvous._PATIENCE_S = 0.1
platform.leave(join(lambda: None, lambda task, stop: "finished"))
"""


def _start(script: str, **variables: object) -> subprocess.Popen[str]:
    given = {"LOCAL_RANK": "0", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment = {key: value for key, value in os.environ.items() if key != MEETING}
    environment |= given | {key: str(value) for key, value in variables.items()}
    return subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


@pytest.mark.timeout(120)
@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2"], ids=["by a file", "by a port"])
def test_two_runs_meet_on_one_host_beside_a_service_that_has_their_port(address: str, tmp_path: Path) -> None:
    """The last ranks are started first: they wait for a port that nobody has yet."""
    with socket.create_server((address, 0)) as service:
        taken = str(service.getsockname()[1])
        ranks = [(run, rank) for rank in (1, 0) for run in (1, 10)]
        started = [
            _start(
                RANK,
                RANK=rank,
                WORLD_SIZE=2,
                MASTER_ADDR=address,
                MASTER_PORT=taken,
                MINE=run,
                **{MEETING: tmp_path / f"run{run}"},
            )
            for run, rank in ranks
        ]
        said = {}
        for place, process in zip(ranks, started):
            output, errors = process.communicate(timeout=90)
            assert process.returncode == 0, errors
            said[place] = output.split()
    by_file = address == "127.0.0.1"
    for run in (1, 10):
        port = taken if by_file else (tmp_path / f"run{run}").read_text()
        assert said[run, 0] == said[run, 1] == [port, str(2.0 * run)]
    assert len({taken, said[1, 0][0], said[10, 0][0]}) == (1 if by_file else 3)


@pytest.mark.timeout(120)
def test_ranks_of_torch_s_variables_meet_at_their_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as service:
        free = service.getsockname()[1]
    started = [
        _start(RANK, RANK=rank, WORLD_SIZE=2, MASTER_ADDR="127.0.0.1", MASTER_PORT=free, MINE=1) for rank in (1, 0)
    ]
    for process in started:
        output, errors = process.communicate(timeout=90)
        assert (process.returncode, output.split()) == (0, [str(free), "2.0"]), errors


@pytest.mark.timeout(120)
@pytest.mark.parametrize("rank", [0, 1])
def test_variables_left_over_in_a_shell_are_named_and_a_stop_signal_is_obeyed(rank: int) -> None:
    """Nobody else comes: the rank says at once for what it waits, and leaves when it is told to."""
    with socket.create_server(("127.0.0.1", 0)) as service:
        free = service.getsockname()[1]
    process = _start(WAITS, RANK=rank, WORLD_SIZE=2, MASTER_ADDR="127.0.0.1", MASTER_PORT=free)
    assert process.stderr is not None
    missing = "1 of 2 ranks" if rank == 0 else "rank 0"
    line = next(line for line in process.stderr if line.startswith("waiting"))
    assert line.startswith(f"waiting for {missing} at 127.0.0.1:{free}, as ")
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.startswith(f"stopped while waiting for {missing} at 127.0.0.1:{free}")
    assert "Traceback" not in errors


def test_a_port_that_is_taken_is_an_error_of_the_user() -> None:
    with socket.create_server(("127.0.0.1", 0)) as service:
        taken = service.getsockname()[1]
        process = _start(WAITS, RANK=0, WORLD_SIZE=2, MASTER_ADDR="127.0.0.1", MASTER_PORT=taken)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert errors.startswith(
        f"rank 0 cannot listen where the ranks are to meet: got 127.0.0.1:{taken}: Address already"
    )


def test_a_service_across_hosts_listens_on_one_interface_unless_its_name_is_a_loopback_alias() -> None:
    with _listening_at("127.0.0.1", 0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
    with _listening_at("127.0.1.1", 0) as listener:  # what /etc/hosts of Debian gives a host's own name
        assert listener.getsockname()[0] == "0.0.0.0"


def test_a_rank_that_comes_first_waits_for_the_whole_file(tmp_path: Path) -> None:
    (tmp_path / ".ranks").write_text("47")  # on its way
    threading.Timer(0.3, _tell, (tmp_path / "ranks", 4711)).start()
    assert _told(tmp_path / "ranks", 20) == 4711
    assert [path.name for path in tmp_path.iterdir()] == ["ranks"]


def test_a_first_rank_that_never_comes_is_an_error_that_says_where_to_look(tmp_path: Path) -> None:
    with pytest.raises(
        RendezvousError, match=r"waited in vain for rank 0 to say in .*ranks where.*; see the logs"
    ) as found:
        _told(tmp_path / "ranks", 0.1)
    assert found.value.exit_code == 1  # the scheduler starts the run again
