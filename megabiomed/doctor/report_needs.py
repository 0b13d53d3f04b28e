"""What `megabiomed checkpoint inspect` says about a topology and a configuration that are to go on from a checkpoint."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.config import RunConfig, load_config
from megabiomed.config.kinds import stored_run
from megabiomed.doctor.needs import config_differences, parse_topology, stage_needs


def needs_report(checkpoint: Checkpoint, topology: str) -> dict[str, Any]:
    """Ranks, and for each pipeline stage what a rank reads and holds."""
    config = stored_config(checkpoint)
    parallel, world = parse_topology(topology, config)
    stages = [asdict(stage) for stage in stage_needs(config.model, parallel, world, config.lora)]
    return {"checkpoint": str(checkpoint.path), "topology": topology, "processes": world, "stages": stages}


def config_report(checkpoint: Checkpoint, name: str) -> list[dict[str, Any]]:
    """Keys in which a run file differs from the configuration that wrote the checkpoint."""
    stored = stored_config(checkpoint)
    return config_differences(
        stored.model_dump(mode="json"), load_config(name, None, type(stored)).model_dump(mode="json")
    )


def stored_config(checkpoint: Checkpoint) -> RunConfig:
    """The configuration that wrote a checkpoint."""
    return stored_run(checkpoint.config_text, f"the configuration in {checkpoint.path}")


def print_needs(report: dict[str, Any]) -> None:
    """The table for the terminal."""
    columns = ("stage", "ranks", "parameters", "reads", "memory to load", "memory to save", "memory to offload")
    table = Table(*columns, title=f"each rank on {report['topology']}: {report['processes']} processes")
    for stage in report["stages"]:
        sizes = (stage[key] for key in ("read_bytes", "load_bytes", "staging_bytes", "offload_bytes"))
        first, last = stage["ranks"]
        table.add_row(str(stage["stage"]), f"{first}-{last}", f"{stage['parameters']:,}", *map(_mib, sizes))
    Console().print(table)


def _mib(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"
