"""Ranks with encoders alone wait while the language model works without them: reading weights, evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist

from megabiomed.engine.mesh import Mesh
from megabiomed.processes import platform

R = TypeVar("R")


class Turns:
    """A group of all ranks in which the encoder ranks wait; the hang guard watches them, not torch's time-out.

    Attributes:
        group: None where no rank is for encoders alone.

    Args:
        patience_s: time-out of the group.
    """

    def __init__(self, mesh: Mesh, patience_s: float) -> None:
        self.group = platform.patient_group(patience_s) if mesh.extra_ranks else None
        self._in_model = mesh.in_model

    def while_others_wait(self, work: Callable[[Callable[[], None]], R], tick: Callable[[], None]) -> R | None:
        """What the ranks of the language model find in work of their own; None on encoder ranks, which wait. Collective.

        Args:
            work: calls its argument now and then, on all ranks of the language model together.
            tick: called with each of these calls and at the end, on encoder ranks too; it may raise on all ranks.
        """

        def goes_on(more: bool) -> bool:
            tick()
            return self.language_model_goes_on(more)

        def tell() -> None:
            goes_on(True)

        found = work(tell) if self._in_model else None
        # Its ranks are through when all say so; encoder ranks have nothing else to do until then.
        while goes_on(False):
            pass
        return found

    def language_model_goes_on(self, more: bool) -> bool:
        """Encoder ranks wait here while the language model works alone; its ranks say `more` until they are through.

        Returns:
            False when they are through. Collective over the world; nothing without dedicated encoder ranks.
        """
        if self.group is None:
            return False
        flag = torch.tensor([int(more)])
        dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self.group)
        return bool(flag.item())
