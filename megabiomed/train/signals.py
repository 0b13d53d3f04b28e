"""Stop signals set a flag; the flag is shared by all ranks at a step boundary, so that they leave together."""

from __future__ import annotations

import signal
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopFlag:
    """Catches SIGTERM, SIGUSR1 and SIGINT from construction on; made before torch is imported, so that none is missed."""

    def __init__(self) -> None:
        self.received: str | None = None
        for number in STOP_SIGNALS:
            signal.signal(number, self._catch)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        # A second Ctrl-C is a person who does not want to wait for the save, or a run that hangs before its first step.
        if number == signal.SIGINT and self.received == "SIGINT":
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.received = signal.Signals(number).name

    def agreed(self) -> bool:
        """Whether any rank was asked to stop. Collective: all ranks call it at the same step boundary."""
        import torch
        import torch.distributed as dist

        from megabiomed import platform

        flag = torch.tensor([int(self.received is not None)], device=platform.device())
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag.item())
