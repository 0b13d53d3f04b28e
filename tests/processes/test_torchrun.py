"""The printed command names as many hosts as the ranks need."""

from __future__ import annotations

import pytest

from megabiomed.processes.torchrun import hosts_for, torchrun


@pytest.mark.parametrize(
    ("world", "devices", "tensor", "hosts"),
    [
        (1, 0, 1, (1, 1)),
        (8, 0, 2, (1, 8)),
        (2, 8, 1, (1, 2)),
        (1024, 8, 8, (128, 8)),
        (1024, 0, 1, (128, 8)),
        (12, 8, 4, (3, 4)),
        (12, 8, 1, (2, 6)),
        (32, 8, 16, (4, 8)),
        (1031, 8, 1, (1031, 1)),
    ],
)
def test_ranks_are_spread_over_equal_hosts_without_splitting_tensor_ranks(
    world: int, devices: int, tensor: int, hosts: tuple[int, int]
) -> None:
    assert hosts_for(world, devices, tensor) == hosts


def test_one_host_needs_no_address_and_several_leave_it_to_the_shell() -> None:
    assert torchrun(1, 4) == "torchrun --standalone --nproc_per_node=4"
    words = torchrun(128, 8)
    assert words.startswith('torchrun --nnodes=128 --nproc_per_node=8 --node_rank="$NODE_RANK" --master_addr=')
