"""What each start ran with, and what differs from the start before."""

from __future__ import annotations

import json
from pathlib import Path

from megabiomed.runs.environment import ENVIRONMENT, keep_environment


def test_a_start_keeps_versions_and_devices_and_tells_what_differs_from_the_one_before(tmp_path: Path) -> None:
    assert keep_environment(tmp_path, 2) == []
    assert keep_environment(tmp_path, 2) == []
    file = tmp_path / ENVIRONMENT
    starts = json.loads(file.read_text())
    assert len(starts) == 2
    now = starts[-1]["packages"]["torch"]
    starts[-1]["packages"]["torch"] = "2.0"
    starts[-1] |= {"device": "8 x GPU of old", "host": "elsewhere", "driver": starts[-1]["driver"]}
    del starts[-1]["python"]  # an earlier release did not keep it
    file.write_text(json.dumps(starts))
    told = keep_environment(tmp_path, 4)
    assert f"packages.torch: 2.0 -> {now}" in told
    assert "ranks: 2 -> 4" in told
    assert sum(line.startswith("device: 8 x GPU of old -> ") for line in told) == 1
    assert len(told) == 3
