"""Whether ranks that must hold the same bits do: a flipped bit in a device's memory tells nobody."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from megabiomed.checkpoint.checksums import checksums
from megabiomed.engine.base import Held
from megabiomed.processes import platform

Difference = dict[str, Any]
"""`tensor`; `ranks`: the world's ranks that differ from most others, or all where there is no majority; `sure`: whether
these ranks are known to be the wrong ones."""


@dataclass(frozen=True)
class Sums:
    """Checksums of tensors at one moment.

    Attributes:
        values: [n] int64 on the device; 0 for what is not there.
    """

    held: tuple[Held, ...]
    values: Tensor

    @classmethod
    def of(cls, held: Sequence[Held]) -> Sums:
        """Read everything once; the host does not wait for the device."""
        # Their tensors are not kept: a gradient would stay in memory.
        names = tuple(Held(each.name, None if each.tensor is None else _NOTHING, each.alike) for each in held)
        there = [number for number, each in enumerate(held) if each.tensor is not None]
        sums = checksums((each.tensor for each in held if each.tensor is not None), platform.device())
        if len(there) == len(held):
            return cls(names, sums)
        values = torch.zeros(len(held), dtype=torch.int64, device=platform.device())
        values[torch.tensor(there, dtype=torch.int64, device=values.device)] = sums
        return cls(names, values)

    @classmethod
    def joined(cls, parts: Sequence[Sums]) -> Sums:
        """All of several, to be compared together."""
        values = [part.values for part in parts]
        nothing = torch.zeros(0, dtype=torch.int64, device=platform.device())
        return cls(tuple(each for part in parts for each in part.held), torch.cat(values) if values else nothing)

    def differences(self) -> list[Difference]:
        """What is not alike on the ranks that share it. Collective along each group."""
        columns: dict[tuple[int, ...], list[int]] = {}
        groups: dict[tuple[int, ...], dist.ProcessGroup] = {}
        ranks_of = {id(group): tuple(dist.get_process_group_ranks(group)) for each in self.held for group in each.alike}
        for number, each in enumerate(self.held):
            for group in each.alike:
                columns.setdefault(ranks_of[id(group)], []).append(number)
                groups.setdefault(ranks_of[id(group)], group)  # several may have the same ranks
        # One order for all ranks of all groups, or two of them would wait for each other.
        return [found for ranks in sorted(groups) for found in self._along(groups[ranks], columns[ranks])]

    def _along(self, group: dist.ProcessGroup, columns: list[int]) -> list[Difference]:
        there = torch.tensor([self.held[number].tensor is not None for number in columns], device=self.values.device)
        mine = torch.stack([self.values[torch.tensor(columns, device=self.values.device)], there.long()])  # [2, n]
        of_all = [torch.empty_like(mine) for _ in range(group.size())]
        dist.all_gather(of_all, mine, group=group)
        # Read once: a wait for the device for each tensor would take longer than the sums.
        table = torch.stack(of_all).cpu()  # [ranks, 2, n]
        sums, held = table[:, 0], table[:, 1].bool()
        found = []
        for place, column in enumerate(columns):
            odd, sure = _odd(sums[:, place].tolist(), held[:, place].tolist())
            if odd:
                ranks = [dist.get_global_rank(group, rank) for rank in odd]
                found.append({"tensor": self.held[column].name, "ranks": ranks, "sure": sure})
        return found


_NOTHING = torch.empty(0)


class Watch:
    """Compares what this rank holds after an update with what it holds before the next one, which is all that may change it.

    This finds flipped bits in what no other rank holds. The sums are compared on the device, and read when asked for.

    Attributes:
        seconds: that the host spent in `before_update`.
    """

    def __init__(self) -> None:
        self._after: Sums | None = None
        self._changed: platform.Later | None = None
        self.seconds = 0.0

    def after_update(self, sums: Sums) -> None:
        """These are what the next update must find."""
        self._after, self._changed = sums, None

    def before_update(self, held: Sequence[Held]) -> None:
        """Compare, if there is something to compare with."""
        if self._after is None:
            return
        began = time.monotonic()
        now = Sums.of(held)
        both = [one.tensor is not None and other.tensor is not None for one, other in zip(self._after.held, now.held)]
        changed = (now.values != self._after.values).double()  # [n]
        if not all(both):
            changed *= torch.tensor(both, device=changed.device)
        self._changed = platform.Later(changed)
        self.seconds += time.monotonic() - began

    @property
    def waits(self) -> bool:
        """Whether `before_update` will compare."""
        return self._after is not None and self._changed is None

    def forget(self) -> None:
        """What is held changes otherwise: weights are loaded."""
        self._after = self._changed = None

    def changed(self, rank: int) -> list[Difference]:
        """What the last comparison found on this rank, once."""
        if self._after is None or self._changed is None:
            return []
        held, flags = self._after.held, self._changed.read_all()
        self.forget()
        return [
            {"tensor": each.name, "ranks": [rank], "sure": True} for each, flag in zip(held, flags, strict=True) if flag
        ]


def _odd(values: Sequence[int], held: Sequence[bool]) -> tuple[list[int], bool]:
    """Places of the values that differ from the majority, and whether there is one; all places where there is none."""
    places = [place for place, there in enumerate(held) if there]
    counted = Counter(values[place] for place in places).most_common()
    if len(counted) < 2:
        return [], False
    most, votes = counted[0]
    if 2 * votes <= len(places):
        return places, False
    return [place for place in places if values[place] != most], True
