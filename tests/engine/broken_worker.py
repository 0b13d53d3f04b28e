"""A rank of the parity suite with one measure for DeepSpeed switched off: `python broken_worker.py MEASURE CASES OUTPUT`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import parity_worker

from megabiomed.engine import workarounds, zero
from megabiomed.processes import platform

SETTINGS: dict[str, Any] = {"managed_gradient_accumulation": True, "gradient_accumulation_steps": 4}


def switch_off(measure: str) -> None:
    if measure in SETTINGS:
        original = zero.deepspeed_settings
        zero.deepspeed_settings = lambda config: {**original(config), measure: SETTINGS[measure]}
    elif measure == "mark_backward":
        workarounds.mark_backward = lambda y, optimizer: y
    elif measure == "past_the_hooks":
        zero.ZeroEngine.forward = lambda self, *inputs: self.deepspeed(*inputs)
    else:
        assert hasattr(workarounds, measure)
        setattr(workarounds, measure, lambda *args: None)
    if measure == "check_traces_inside":
        joined = platform.init_distributed
        platform.init_distributed = lambda timeout_s: joined(timeout_s=10)


if __name__ == "__main__":
    switch_off(sys.argv.pop(1))
    parity_worker.main()
