"""Values between ranks, as JSON in tensors of bytes: what a peer sends is parsed, never unpickled.

torch's object collectives (`broadcast_object_list`, `gather_object` and their kind) unpickle, so that whoever reaches a
rank's socket can run code in it. Values are what JSON holds: a tuple arrives as a list, a key of a mapping as text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist

from megabiomed.ground.errors import MegabiomedError
from megabiomed.processes import platform

Value = Any
"""What JSON holds."""
_FEW_RANKS = 32
"""gloo sums along a ring, one hop of about 50 us a rank and direction: up to here that is less than the device would wait."""


def combined(
    values: Sequence[float], op: dist.ReduceOp.RedOpType, group: dist.ProcessGroup | None = None
) -> list[float]:  # fmt: skip
    """Numbers of the hosts, each summed over the ranks of a group (or their largest), in fp64. Collective.

    Of few ranks on the host, so that the device need not finish first what is queued.
    """
    ranks = dist.get_world_size(group)
    if ranks == 1:
        return list(values)
    where = torch.device("cpu") if ranks <= _FEW_RANKS else platform.device()
    numbers = torch.tensor(values, dtype=torch.float64, device=where)
    dist.all_reduce(numbers, op, group=group)
    found: list[float] = numbers.tolist()
    return found


def on_any_rank(here: bool) -> bool:
    """Whether it is so on any rank. Collective over the world."""
    return bool(combined((here,), dist.ReduceOp.MAX)[0])


def broadcast(value: Value, first: int = 0, group: dist.ProcessGroup | None = None) -> Value:
    """The value of one rank, on every rank. Collective.

    Args:
        value: of the rank that sends; the others' is not looked at.
        first: number in the group of the rank that sends.
        group: one that carries tensors of the CPU; None: all ranks.
    """
    mine = dist.get_rank(group) == first
    sent = _bytes_of(value) if mine else torch.empty(0, dtype=torch.uint8)
    length = torch.tensor([sent.numel()])
    dist.broadcast(length, group=group, group_src=first)
    if not mine:
        sent = torch.empty(int(length), dtype=torch.uint8)
    dist.broadcast(sent, group=group, group_src=first)
    return value if mine else _value_of(sent)


def gather(value: Value, group: dist.ProcessGroup | None = None) -> list[Value] | None:
    """The values of all ranks in their order, on the first rank; None on the others. Collective."""
    sent = _bytes_of(value)
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size(group))]
    dist.all_gather(lengths, torch.tensor([sent.numel()]), group=group)
    longest = max(int(length) for length in lengths)
    padded = torch.zeros(longest, dtype=torch.uint8)
    padded[: sent.numel()] = sent
    if dist.get_rank(group) != 0:
        dist.gather(padded, None, group=group, group_dst=0)
        return None
    found = [torch.empty(longest, dtype=torch.uint8) for _ in lengths]
    dist.gather(padded, found, group=group, group_dst=0)
    return [_value_of(part[: int(length)]) for part, length in zip(found, lengths)]


def from_first(work: Callable[[], Value], group: dist.ProcessGroup | None = None) -> Value:
    """What the first rank finds, on every rank. Collective where there is a process group.

    Args:
        work: done by the first rank alone.

    Raises:
        MegabiomedError: that of the first rank, on all ranks.
    """
    if not dist.is_initialized():
        return work()
    if dist.get_rank(group) != 0:
        found, error = broadcast(None, 0, group)
        if error is not None:
            raise _error_of(error)
        return found
    try:
        found = work()
    except MegabiomedError as error:
        broadcast([None, _parts_of(error)], 0, group)
        raise
    broadcast([found, None], 0, group)
    return found


def _bytes_of(value: Value) -> torch.Tensor:
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def _value_of(sent: torch.Tensor) -> Value:
    return json.loads(sent.numpy().tobytes())


def _parts_of(error: MegabiomedError) -> list[Any]:
    """Names of its class and of those above, the most special first; its message in parts."""
    names = [kind.__name__ for kind in type(error).__mro__ if issubclass(kind, MegabiomedError)]
    got, expected = (None if part is None else str(part) for part in (error.got, error.expected))
    return [names, error.what, got, expected, error.do]


def _error_of(parts: list[Any]) -> MegabiomedError:
    names, what, got, expected, do = parts
    known = {kind.__name__: kind for kind in _kinds(MegabiomedError)}
    nearest = next(known[name] for name in names if name in known)
    return nearest(what, got=got, expected=expected, do=do)


def _kinds(base: type[MegabiomedError]) -> Iterator[type[MegabiomedError]]:
    yield base
    for child in base.__subclasses__():
        yield from _kinds(child)
