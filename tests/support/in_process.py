"""A run of one rank in the process of the test, which has the fixture `alone`: seconds less than a worker's start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from megabiomed.processes.signals import StopFlag
from megabiomed.runs.kinds import kind_of_file, read_run


def train_here(folder: Path, name: str, values: dict[str, Any], *overrides: str) -> Path:
    """Train as the command would after its checks; returns the run folder."""
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump({"name": name, "run_dir": str(folder / name), **values}))
    config, kind = read_run(str(file), list(overrides)), kind_of_file(str(file), list(overrides))
    kind.check_start(config, 1)
    assert kind.train(config, None, StopFlag()) in ("finished", "stopped")
    return config.folder
