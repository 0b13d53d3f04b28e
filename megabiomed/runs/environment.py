"""What a start ran with, beside its configuration: `environment.json` in the run folder, one entry a start."""

from __future__ import annotations

import platform as machine
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from megabiomed import __version__
from megabiomed.ground.files import read_json, write_json
from megabiomed.ground.mappings import leaves
from megabiomed.processes import platform

ENVIRONMENT = "environment.json"
_PACKAGES = ("torch", "deepspeed", "megatron-core", "transformers", "triton", "safetensors", "numpy", "mlflow")
_ELSEWHERE = ("time", "host", "system")
"""Another node of the same kind computes the same."""
_MOST = 100
"""Starts that are kept, the newest."""


def environment(world: int) -> dict[str, Any]:
    """Versions, machine and devices of this process, which stands for all `world` ranks."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "megabiomed": __version__,
        "python": machine.python_version(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name)) is not None},
        "system": machine.platform(),
        "host": machine.node(),
        "ranks": world,
        "device": platform.describe(),
        "driver": platform.driver_version(),
    }


def keep_environment(folder: Path, world: int) -> list[str]:
    """Add this start to `environment.json`.

    Returns:
        `key: before -> now` of what can bend a curve and differs from the start before.
    """
    file = folder / ENVIRONMENT
    earlier = read_json(file, list) if file.is_file() else []
    now = environment(world)
    write_json(file, [*earlier[1 - _MOST :], now])
    before = dict(leaves(earlier[-1])) if earlier and isinstance(earlier[-1], dict) else {}
    return [
        f"{key}: {before[key]} -> {value}"
        for key, value in leaves(now)
        if key not in _ELSEWHERE and before.get(key, value) != value
    ]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
