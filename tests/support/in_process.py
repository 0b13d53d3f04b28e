"""A run of one rank in the process of the test, which has the fixture `alone`: seconds less than a worker's start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from megabiomed.processes import platform
from megabiomed.processes.signals import StopFlag
from megabiomed.runs.kinds import kind_of_config, kind_of_file, read_run
from megabiomed.runs.replay.recompute import Replay
from megabiomed.runs.replay.start import Prepared


def train_here(folder: Path, name: str, values: dict[str, Any], *overrides: str) -> Path:
    """Train as the command would after its checks; returns the run folder."""
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump({"name": name, "run_dir": str(folder / name), **values}))
    config, kind = read_run(str(file), list(overrides)), kind_of_file(str(file), list(overrides))
    kind.check_start(config, 1)
    assert kind.train(config, None, StopFlag()) in ("finished", "stopped")
    platform.end_groups()
    return config.folder


def replay_of(prepared: Prepared) -> Replay:
    """A replay that is about to compute."""
    kind = kind_of_config(prepared.whole)
    return Replay(prepared.plan, kind.run_of(prepared.whole, prepared.plan.part), StopFlag(), lambda line: None)
