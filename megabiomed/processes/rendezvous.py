"""Where the ranks of a run meet.

On one host they meet in a file of the launcher's private folder: no port, and nobody else's process can join or write. Across
hosts they meet at a port that the system gave rank 0, which tells the others by a file (a port chosen earlier may be taken by
then), on the interface of MASTER_ADDR. Without a launcher of ours, torch's variables say where.

Nothing here authenticates: across hosts the network between the nodes must be trusted (docs/SECURITY.md).
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from megabiomed.ground.errors import LaunchError, RendezvousError

if TYPE_CHECKING:
    from torch.distributed import Store, TCPStore

MEETING = "MEGABIOMED_MEETING"
"""Set by the launchers: a file that no other start uses, in an existing folder that all ranks see."""
_LOCAL = ("127.0.0.1", "localhost", "::1")
_HERE = "megabiomed/here"
_PATIENCE_S = 5.0  # longer than a start on a busy machine takes; then a person wants to know what is waited for
_REPEAT_S = 60.0


class Waiting:
    """One wait: says what it waits for when it takes long, ends when asked to or when the time is over.

    Args:
        what: what is waited for; called again for every message.
        stopped: whether this process was asked to leave.
        timeout_s: seconds from now.
    """

    def __init__(self, what: Callable[[], str], stopped: Callable[[], bool], timeout_s: float) -> None:
        self._what = what
        self._stopped = stopped
        self._timeout_s = timeout_s
        self._begun = time.monotonic()
        self._next_word = self._begun + _PATIENCE_S
        self._pause = 0.02

    def pause(self) -> None:
        """Sleep a moment, longer each time up to a second.

        Raises:
            RendezvousError: the time is over, or a stop signal came.
        """
        now = time.monotonic()
        if self._stopped():
            raise RendezvousError(
                f"stopped while waiting for {self._what()}", do="nothing had begun; start the run again"
            )
        if now - self._begun > self._timeout_s:
            raise RendezvousError(
                f"waited in vain for {self._what()}",
                got=f"nothing for {self._timeout_s:.0f} s",
                do="see the logs of the other ranks; if there are none, unset RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT",
            )
        if now >= self._next_word:
            print(f"waiting for {self._what()}", file=sys.stderr, flush=True)
            self._next_word = now + _REPEAT_S
        time.sleep(self._pause)
        self._pause = min(1.0, 1.5 * self._pause)


def open_store(rank: int, world: int, timeout_s: float, stopped: Callable[[], bool] = lambda: False) -> Store:
    """The store of this start's process group, with all ranks connected to it. Collective.

    Args:
        stopped: asked while waiting; a rank that was told to leave before the run began leaves.

    Raises:
        RendezvousError: somebody did not come in time, or this rank was told to leave.
        LaunchError: rank 0 cannot listen where the variables say.
    """
    from torch.distributed import FileStore, HashStore

    meeting, address = os.environ.get(MEETING), os.environ["MASTER_ADDR"]
    store: Store
    if world == 1:
        return HashStore()
    here = on_one_host(address, world)
    if (interface := gloo_interface(address, here)) is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    if meeting and here and _can_lock(Path(meeting).parent):
        store, where = FileStore(f"{meeting}.store", world), meeting
    elif meeting:
        store = _store_at_told_port(Path(meeting), rank, world, timeout_s, stopped)
        where = f"{address}:{os.environ['MASTER_PORT']}"
    else:
        store = _store_of_variables(rank, world, timeout_s, stopped)
        where = f"{address}:{os.environ['MASTER_PORT']}, as RANK and WORLD_SIZE say"
    _await_all(store, world, where, timeout_s, stopped)
    return store


def on_one_host(address: str, world: int) -> bool:
    """Whether all ranks are on this host, as torchrun, srun or the address says."""
    # A heterogeneous job counts the nodes of each of its components alone.
    slurm = os.environ.get("SLURM_STEP_NUM_NODES") == "1" and "SLURM_HET_SIZE" not in os.environ
    return slurm or os.environ.get("LOCAL_WORLD_SIZE") == str(world) or address in _LOCAL


def gloo_interface(address: str, here: bool) -> str | None:
    """The network interface for gloo's connections; None leaves the choice to gloo, which looks up the host's own name.

    That name often stands for a loopback address, which no other host can reach, or for a network that is not the cluster's.

    Args:
        address: of rank 0.
        here: all ranks are on this host: then an interface that no other host can reach.
    """
    if here:
        return next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    # The second one, which is reserved for documentation, asks for the default route: rank 0 may know itself as a loopback.
    for target in (address, "192.0.2.1"):
        name = _interface_to(target)
        if name is not None:
            return name
    return None


def _interface_to(address: str) -> str | None:
    """The interface through which this host reaches an address, or that has it; None for a loopback. Nothing is sent."""
    import psutil

    with suppress(OSError):
        family, kind, protocol, _, target = socket.getaddrinfo(address, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(target)
            mine = probe.getsockname()[0]
        if not ipaddress.ip_address(mine).is_loopback:
            found = psutil.net_if_addrs().items()
            return next((name for name, held in found if any(one.address == mine for one in held)), None)
    return None


def _can_lock(folder: Path) -> bool:
    """Whether files in a folder can be locked, which torch's FileStore needs; some shared file systems refuse it."""
    try:
        with (folder / ".lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
    except OSError:
        return False
    return True


def _await_all(store: Store, world: int, where: str, timeout_s: float, stopped: Callable[[], bool]) -> None:
    """Return when every rank has come."""
    come = store.add(_HERE, 1)
    waiting = Waiting(lambda: f"{world - come} of {world} ranks at {where}", stopped, timeout_s)
    while come < world:
        waiting.pause()
        come = store.add(_HERE, 0)


def _store_at_told_port(file: Path, rank: int, world: int, timeout_s: float, stopped: Callable[[], bool]) -> TCPStore:
    """The store at MASTER_ADDR, opened by rank 0, which tells its port by the file; sets MASTER_PORT."""
    address = os.environ["MASTER_ADDR"]
    if rank == 0:
        with _listening_at(address, 0) as listener:
            port = int(listener.getsockname()[1])
            store = _tcp_store(address, port, world, timeout_s, listener)
        _tell(file, port)
    else:
        port = _told(file, timeout_s, stopped)
        store = _tcp_store(address, port, world, timeout_s)
    os.environ["MASTER_PORT"] = str(port)
    return store


def _store_of_variables(rank: int, world: int, timeout_s: float, stopped: Callable[[], bool]) -> Store:
    """The store where MASTER_ADDR and MASTER_PORT say: of torchrun's agent, or opened by rank 0."""
    from torch.distributed import PrefixStore

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    of_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if rank == 0 and not of_agent:
        with _listening_at(address, port) as listener:
            os.environ["MASTER_PORT"] = str(listener.getsockname()[1])
            return _tcp_store(address, int(os.environ["MASTER_PORT"]), world, timeout_s, listener)
    waiting = Waiting(lambda: f"rank 0 at {address}:{port}, as MASTER_ADDR and MASTER_PORT say", stopped, timeout_s)
    while not _answers(address, port):
        waiting.pause()
    store = _tcp_store(address, port, world, timeout_s)
    # torchrun's agent keeps one store over all its restarts; the prefix is torch's own.
    return PrefixStore(f"/worker/attempt_{os.environ['TORCHELASTIC_RESTART_COUNT']}", store) if of_agent else store


def _answers(address: str, port: int) -> bool:
    """Whether somebody listens there. torch's own connection attempt cannot be interrupted by a signal."""
    with suppress(OSError), socket.create_connection((address, port), timeout=2):
        return True
    return False


def _listening_at(address: str, port: int) -> socket.socket:
    """A listening socket on the interface of `address` alone, where other hosts can reach that.

    Raises:
        LaunchError: the port is taken, or the address is not of this host.
    """
    try:
        # /etc/hosts often maps a node's own name to a loopback address, which the other nodes cannot reach.
        found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        is_loopback = ipaddress.ip_address(found[4][0]).is_loopback
        host = "" if is_loopback and address not in _LOCAL else str(found[4][0])
        return socket.create_server((host, port), family=found[0], backlog=2048)
    except OSError as error:
        raise LaunchError(
            "rank 0 cannot listen where the ranks are to meet",
            got=f"{address}:{port}: {error.strerror or error}",
            do="set MASTER_ADDR to this host and MASTER_PORT to a free port; with torchrun on one host use --standalone",
        ) from None


def _tcp_store(
    address: str, port: int, world: int, timeout_s: float, listener: socket.socket | None = None
) -> TCPStore:
    """torch's store at this place; the one with a listener serves the others."""
    from torch.distributed import TCPStore

    limit = timedelta(seconds=timeout_s)
    if listener is None:
        return TCPStore(address, port, world, False, limit, wait_for_workers=False)
    # The store takes the socket over and closes it.
    descriptor = listener.detach()
    return TCPStore(address, port, world, True, limit, wait_for_workers=False, master_listen_fd=descriptor)


def _tell(file: Path, port: int) -> None:
    half = file.with_name(f".{file.name}")
    half.write_text(str(port))
    half.replace(file)


def _told(file: Path, timeout_s: float, stopped: Callable[[], bool] = lambda: False) -> int:
    waiting = Waiting(lambda: f"rank 0 to say in {file} where the ranks meet", stopped, timeout_s)
    while True:
        # Listing a folder asks its server; a name looked up too early may stay absent for a minute (nfs(5), lookupcache).
        with suppress(OSError):
            if file.name in os.listdir(file.parent):
                return int(file.read_text())
        waiting.pause()
