"""The effective configuration of a run, every default spelled out: printed at every start, kept in the run folder."""

from __future__ import annotations

import os

import yaml

from megabiomed.config import RunConfig, to_yaml
from megabiomed.ground.files import write_atomic

FILE = "config.yaml"


def announce(config: RunConfig) -> RunConfig:
    """Rank 0 prints it, whoever started the ranks; nobody has joined the process group yet."""
    # torchrun and our launcher set RANK, srun sets SLURM_PROCID.
    if os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0":
        print(compact(config), flush=True)
    return config


def keep(config: RunConfig) -> None:
    """Write it into the run folder. By one rank, and after the folder was claimed: a refused start leaves it alone."""
    write_atomic(config.folder / FILE, to_yaml(config))


def compact(config: RunConfig) -> str:
    """One section per line."""
    lines = []
    for section, content in config.model_dump(mode="json").items():
        # Not wrapped, so that one line of the log holds a section.
        text = yaml.safe_dump(content, default_flow_style=True, sort_keys=False, width=10**6).strip()
        lines.append(f"{section}: {text.removesuffix('...').strip()}")
    return "\n".join(lines)
