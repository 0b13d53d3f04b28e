"""One rank that trains with a hook of its own and writes down when it was called.

hooks_worker.py RUN.yaml CALLS.json [a.b=v ...]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from megabiomed.config import RunConfig, load_config
from megabiomed.processes import platform
from megabiomed.processes.ranks import join
from megabiomed.processes.signals import StopFlag

POINTS = ("at_start", "before_step", "check_step", "after_step", "between_steps", "on_leave", "at_end")


def work(run_file: str, calls: Path, overrides: list[str]) -> int:
    """Train; the hook stands behind all others."""

    def act(config: RunConfig, stop: StopFlag) -> str:
        from megabiomed.runs.hooks import Hook
        from megabiomed.runs.pretrain import PretrainRun
        from megabiomed.runs.trainer import Trainer

        told: list[tuple[str, int]] = []

        def teller(point: str) -> Callable[..., None]:
            def tell(self: Hook, training: Any, *more: Any) -> None:
                told.append((point, training.step))

            return tell

        probe = type("Probe", (Hook,), {point: teller(point) for point in POINTS})
        trainer = Trainer(PretrainRun(config), stop)
        trainer.hooks.append(probe())
        outcome = trainer.train()
        calls.write_text(json.dumps(told))
        return outcome

    return join(lambda: load_config(run_file, overrides), act)


if __name__ == "__main__":
    platform.leave(work(sys.argv[1], Path(sys.argv[2]), sys.argv[3:]))
