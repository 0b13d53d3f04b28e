"""How ranks find each other: at the port that rank 0 was given, whatever else listens on the host."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from megabiomed.ground.errors import RendezvousError
from megabiomed.processes.rendezvous import MEETING, _can_lock, _listening_at, _tell, _told, gloo_interface, on_one_host

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
@pytest.mark.parametrize("by_file", [True, False], ids=["by a file", "by a port"])
def test_two_runs_meet_on_one_host_beside_a_service_that_has_their_port(by_file: bool, tmp_path: Path) -> None:
    """The last ranks are started first: they wait for a port that nobody has yet."""
    address, of_srun = "127.0.0.2", {"SLURM_STEP_NUM_NODES": 1} if by_file else {}
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
                **of_srun,
            )
            for run, rank in ranks
        ]
        said = {}
        for place, process in zip(ranks, started):
            output, errors = process.communicate(timeout=90)
            assert process.returncode == 0, errors
            said[place] = output.split()
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


@pytest.mark.parametrize(
    ("address", "variables", "here"),
    [
        ("127.0.0.1", {}, True),
        ("node1", {}, False),
        ("node1", {"LOCAL_WORLD_SIZE": "4"}, True),
        ("node1", {"LOCAL_WORLD_SIZE": "2"}, False),
        ("node1", {"SLURM_STEP_NUM_NODES": "1"}, True),
        ("node1", {"SLURM_STEP_NUM_NODES": "2"}, False),
        ("node1", {"SLURM_STEP_NUM_NODES": "1", "SLURM_HET_SIZE": "2"}, False),
    ],
)
def test_ranks_of_one_host_are_known_by_whoever_started_them(
    address: str, variables: dict[str, str], here: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOCAL_WORLD_SIZE", "SLURM_STEP_NUM_NODES", "SLURM_HET_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert on_one_host(address, 4) is here


def test_gloo_takes_a_loopback_on_one_host_and_across_hosts_the_interface_that_leads_to_rank_0(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert str(gloo_interface("node1", here=True)).startswith("lo")
    addresses = {"lo": "127.0.0.1", "eth0": "10.1.0.7", "ib0": "10.2.0.7"}
    held = {name: [SimpleNamespace(address=address)] for name, address in addresses.items()}
    monkeypatch.setattr("psutil.net_if_addrs", lambda: held)
    routes = {"node1": "10.2.0.7", "127.0.1.1": "127.0.0.1", "192.0.2.1": "10.1.0.7"}
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *_, **__: [(2, 2, 0, "", (host, 9))])
    monkeypatch.setattr(socket, "socket", lambda *_: _Route(routes))
    assert gloo_interface("node1", here=False) == "ib0"
    assert gloo_interface("127.0.1.1", here=False) == "eth0"  # what /etc/hosts of Debian gives a host's own name
    routes["192.0.2.1"] = "127.0.0.1"  # no other network
    assert gloo_interface("127.0.1.1", here=False) is None


class _Route(nullcontext[Any]):
    """A socket that knows only from which address it would reach another one."""

    def __init__(self, routes: dict[str, str]) -> None:
        super().__init__(self)
        self._routes, self._target = routes, ""

    def connect(self, target: tuple[str, int]) -> None:
        self._target = target[0]

    def getsockname(self) -> tuple[str, int]:
        return self._routes[self._target], 5


def test_a_folder_whose_files_cannot_be_locked_is_not_met_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _can_lock(tmp_path)
    assert not _can_lock(tmp_path / "absent")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert not _can_lock(tmp_path)


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
