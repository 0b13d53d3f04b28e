"""The #SBATCH lines of a stage: sbatch reads them before any shell does."""

from __future__ import annotations

import re
from pathlib import Path

from megabiomed.config.cluster import Flags
from megabiomed.ground.errors import ConfigError
from megabiomed.launch.chain import ComponentConfig
from megabiomed.launch.sizes import outlives_nodes, size_flags
from megabiomed.launch.stage import ChainStage

_SCRIPT_PATH = r"""[^\s"'\\%]+"""


def directives(stage: ChainStage) -> list[str]:
    """The options of the #SBATCH lines; those of the stage come before those that its cluster file has keys for."""
    for path in (stage.folder, Path.cwd()):
        if not re.fullmatch(_SCRIPT_PATH, str(path)):
            # sbatch reads its directives before any shell does: quotes are part of the value there, and % is a placeholder.
            raise ConfigError(
                "a path cannot be used in an #SBATCH line",
                got=repr(str(path)),
                do="use one without spaces, quotes and %",
            )
    cluster = stage.cluster
    values = {
        "comment": f"megabiomed:chain={stage.chain},stage={stage.name}",
        **_common(stage, cluster.gpus_per_node, cluster.gpu_type, {}),
        "job-name": f"{stage.chain}-{stage.name}",
        **size_flags(stage),
        "no-kill": outlives_nodes(stage),
        # B: the batch shell alone, which passes it on to the ranks. Without it the signal would reach every process of the
        # job, and end those that do not expect it, such as the loaders' workers.
        "signal": f"B:USR1@{cluster.grace_seconds}",
        "requeue": True,
        "open-mode": "append",
        "chdir": str(Path.cwd()),
        "output": f"{stage.folder}/slurm/job.log",
    }
    return _lines(values)


def component_directives(stage: ChainStage, part: ComponentConfig) -> list[str]:
    """The options of the #SBATCH lines of one more kind of nodes; what it leaves out is the same as for the others."""
    common = _common(stage, part.gpus_per_node, None, part.sbatch)
    own = {"nodes": part.nodes, "ntasks-per-node": part.ranks_per_node, "cpus-per-task": stage.cpus_of(part)}
    return _lines({**common, **own})


def _common(stage: ChainStage, gpus: int, gpu_type: str | None, sbatch: Flags) -> dict[str, str | int | bool | None]:
    """Options that every kind of node needs."""
    cluster = stage.cluster
    return {
        "partition": cluster.partition,
        "account": cluster.account,
        "gres": ":".join(word for word in ("gpu", gpu_type, str(gpus)) if word) if gpus else None,
        "mem": cluster.memory,
        # Flags replace the cluster's keys above them, and never the cores and the time below.
        **stage.sbatch,
        **sbatch,
        "cpus-per-task": stage.cpus_per_task,
        "time": stage.time,
    }


def _lines(values: dict[str, str | int | bool | None]) -> list[str]:
    kept = ((key, value) for key, value in values.items() if value is not None and value is not False)
    return [f"--{key}" if value is True else f"--{key}={value}" for key, value in kept]
