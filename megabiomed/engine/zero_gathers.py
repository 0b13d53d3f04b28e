"""ZeRO-3's gathered weights: kept where one rank holds all of them, and never far ahead of the device where several do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from megabiomed.checkpoint.logical import TensorSource
from megabiomed.checkpoint.reader import load_fragments
from megabiomed.processes import platform

if TYPE_CHECKING:
    from megabiomed.engine.zero import ZeroEngine


def keep_gathered(optimizer: Any, stage: nn.Module) -> None:
    """In a group of one rank, make every weight a view of the partition that the optimizer writes, for good.

    A partition is the whole weight there. DeepSpeed all the same fetches and releases it around every layer, in Python and in
    autograd nodes of its own: two thirds of the host's time for a micro-batch of six blocks. What it calls persistent are
    copies beside the partitions, and there are none.
    """
    optimizer.parameter_offload._remove_module_hooks()
    optimizer._partition_all_parameters = _nothing
    optimizer.persistent_parameters.clear()
    parameters = list(stage.parameters())
    for parameter in parameters:
        parameter.ds_persist = False
    # Not `all_gather`, which copies where there is one parameter.
    parameters[0].all_gather_coalesced(parameters).wait()


def _nothing() -> None:
    """A step has nothing to release first."""


def gather_behind_the_host(optimizer: Any) -> None:
    """Gather the small weights after a step in the order of the streams.

    DeepSpeed lets the host wait for the device then, although the computing stream already waits for every gather.
    """
    post_step = optimizer._post_step

    def in_order(*args: Any) -> None:
        from deepspeed.accelerator import get_accelerator

        accelerator = get_accelerator()
        # An attribute of the instance hides the method; deleting it brings the method back.
        accelerator.resolves_data_dependency = lambda: True
        try:
            post_step(*args)
        finally:
            del accelerator.resolves_data_dependency

    optimizer._post_step = in_order


def publish_partitions(engine: ZeroEngine, source: TensorSource) -> None:
    """Make the compute weights of this rank equal to its masters; frozen ones come from `source`."""
    with _persistent_apart(engine.optimizer):
        _read_frozen(engine, source)
        for parameter in engine.stage.parameters():
            if not parameter.requires_grad:
                continue
            for _, flats in engine.flat_state(parameter):
                length = flats["param"].numel()
                parameter.ds_tensor.data.view(-1)[:length].copy_(flats["param"])


def _read_frozen(engine: ZeroEngine, source: TensorSource) -> None:
    for parameter in engine.stage.parameters():
        if not parameter.requires_grad:
            parameter.ds_tensor.data.zero_()  # padding of the vocabulary is stored nowhere
    load_fragments(source, engine.frozen_fragments(), ("param",))


@contextmanager
def _persistent_apart(optimizer: Any) -> Iterator[None]:
    # ZeRO-3 keeps small parameters gathered: inside they are partitioned like the others, and gathered again after.
    persistent = optimizer.persistent_parameters
    if persistent:
        # Loading writes into partitions; a gathered copy would keep the old values.
        persistent[0].partition(persistent)
    yield
    if persistent:
        persistent[0].all_gather(persistent)


class Point(Protocol):
    """A place in the device's work."""

    def synchronize(self) -> None:
        """Wait until the device is there."""


def _point() -> Point | None:
    return torch.cuda.current_stream().record_event() if platform.has_cuda() else None


class HostLead:
    """Keeps the host at most one micro-batch ahead of the device.

    A gathered weight takes memory from the time when the host asks for it until the device has computed with it. DeepSpeed
    bounds that with a wait for the whole device before each micro-batch, after which the device waits for the host.

    Args:
        point: marks where the device's work ends now; None where the host computes itself.
    """

    def __init__(self, point: Callable[[], Point | None] = _point) -> None:
        self._point = point
        self._begun: Point | None = None

    def begin(self) -> None:
        """Before a forward pass: wait until the device has begun the one before."""
        if self._begun is not None:
            self._begun.synchronize()
        self._begun = self._point()
