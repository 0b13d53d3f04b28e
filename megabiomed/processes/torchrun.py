"""The command lines of torchrun: what to type on each host where nothing else starts the ranks."""

from __future__ import annotations

_USUAL_NODE = 8  # devices of a host, where this machine has none to count

_MEET = '--node_rank="$NODE_RANK" --master_addr="$MASTER_ADDR" --master_port="${MASTER_PORT:-29500}"'


def torchrun(hosts: int, ranks_per_host: int) -> str:
    """The words before the module; across hosts with the variables that differ between them, for the shell to fill in."""
    if hosts == 1:
        return f"torchrun --standalone --nproc_per_node={ranks_per_host}"
    return f"torchrun --nnodes={hosts} --nproc_per_node={ranks_per_host} {_MEET}"


def hosts_for(world: int, devices: int, tensor_ranks: int) -> tuple[int, int]:
    """(hosts, ranks on each) for so many ranks: as many on a host as it has devices, tensor ranks on one host if they fit.

    Args:
        devices: of a host; 0: unknown, taken as 8.
    """
    most = devices or _USUAL_NODE
    equal = [count for count in range(min(most, world), 0, -1) if world % count == 0]
    ranks = next((count for count in equal if count % tensor_ranks == 0), equal[0])
    return world // ranks, ranks
