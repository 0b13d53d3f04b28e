"""The curves of a run, read from its metrics."""

from __future__ import annotations

import math
from pathlib import Path

from megabiomed.runs.plot import read_curve


def test_lines_that_a_dead_node_left_unfinished_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(
        b'{"step": 1, "train/loss": 3.5}\n[]\n{"step": 2, "train/lo\n\xff\xfe\n{"train/loss": 1}\n'
        b'{"step": 3, "train/loss": "inf"}\n'
    )
    steps, losses = read_curve(tmp_path, "train/loss")
    assert steps == [1, 3]
    assert losses[0] == 3.5
    assert math.isnan(losses[1])
