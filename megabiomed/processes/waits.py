"""How long this rank's work stands still in collectives, found at the one place that all of them pass.

torch's own functions, megatron-core, DeepSpeed, FSDP2 and the pipeline schedules all call the methods of `ProcessGroup` and
`Work.wait`. A collective that a caller waits for blocks the stream, or on a CPU the host, in one of the two; what one does
behind other work blocks nothing and counts nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist

from megabiomed.processes.platform import Mark

_COLLECTIVES = (
    "_allgather_base", "_reduce_scatter_base", "all_gather_single", "all_gather_single_coalesced", "all_to_all_single",
    "allgather", "allgather_coalesced", "allgather_into_tensor_coalesced", "allreduce", "allreduce_coalesced", "alltoall",
    "alltoall_base", "barrier", "broadcast", "gather", "monitored_barrier", "recv", "recv_anysource", "reduce",
    "reduce_scatter", "reduce_scatter_single", "reduce_scatter_single_coalesced", "reduce_scatter_tensor_coalesced",
    "scatter", "send",
)  # fmt: skip

Span = tuple[Mark, Mark]
"""Where a stretch of work begins and ends."""


@contextmanager
def recorded_waits() -> Iterator[list[Span]]:
    """The stretches that this process spends in collectives, in the order in which they end, while the context is open.

    Those of all threads: the backward pass has threads of its own on a GPU. The list may be emptied at any time.
    """
    spans: list[Span] = []
    held = [(dist.ProcessGroup, name) for name in _COLLECTIVES if name in vars(dist.ProcessGroup)]
    # As the class holds them: what an attribute of the class gives does not bind to an object when it is put back.
    before = [(kind, name, vars(kind)[name]) for kind, name in [*held, (dist.Work, "wait")]]
    for kind, name, _ in before:
        setattr(kind, name, _bracketed(getattr(kind, name), spans))
    try:
        yield spans
    finally:
        for kind, name, method in before:
            setattr(kind, name, method)


def _bracketed(method: Callable[..., Any], spans: list[Span]) -> Callable[..., Any]:
    @functools.wraps(method)
    def timed(*args: Any, **kwargs: Any) -> Any:
        begin = Mark()
        try:
            return method(*args, **kwargs)
        finally:
            spans.append((begin, Mark()))

    return timed
