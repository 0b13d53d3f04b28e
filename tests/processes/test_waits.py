"""Every collective of torch that holds a rank up is seen, and nothing is left behind afterwards."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist

from megabiomed.processes.platform import Mark
from megabiomed.processes.waits import recorded_waits

ONE = torch.ones(4)
COLLECTIVES: dict[str, Callable[[], object]] = {
    "all_reduce": lambda: dist.all_reduce(ONE),
    "broadcast": lambda: dist.broadcast(ONE, 0),
    "reduce": lambda: dist.reduce(ONE, 0),
    "all_gather": lambda: dist.all_gather([ONE.clone()], ONE),
    "all_gather_into_tensor": lambda: dist.all_gather_into_tensor(ONE.clone(), ONE),
    "reduce_scatter_tensor": lambda: dist.reduce_scatter_tensor(ONE.clone(), ONE),
    "all_to_all_single": lambda: dist.all_to_all_single(ONE.clone(), ONE),
    "gather": lambda: dist.gather(ONE, [ONE.clone()]),
    "scatter": lambda: dist.scatter(ONE.clone(), [ONE]),
    "barrier": lambda: dist.barrier(),
}


@pytest.mark.parametrize("name", COLLECTIVES)
def test_each_collective_is_seen(name: str, alone: None) -> None:
    with recorded_waits() as spans:
        COLLECTIVES[name]()
        seen = len(spans)
        assert seen
        assert all(after.since(before) >= 0 for before, after in spans)
        work = dist.all_reduce(ONE, async_op=True)
        assert work is not None
        issued = len(spans)
        work.wait()
        assert len(spans) == issued + 1
    COLLECTIVES[name]()
    assert len(spans) == issued + 1


def test_marks_are_in_the_order_in_which_they_were_set() -> None:
    first, second = Mark(), Mark()
    assert 0 <= second.since(first) < 60
    assert first.since(second) <= 0
