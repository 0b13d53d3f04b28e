"""A stage without SLURM: what to type on each host."""

from __future__ import annotations

import shlex

from megabiomed.launch import records
from megabiomed.launch.stage import ChainStage
from megabiomed.processes.torchrun import torchrun


def typed_commands(stage: ChainStage) -> list[str]:
    """The same stage without SLURM: what to type on each host, one line per kind of host."""
    # Credentials are left to the shell in which the command is typed.
    secrets = stage.cluster.secrets
    variables = [f"{name}={value}" for name, value in stage.cluster.variables.items() if name not in secrets]
    front = shlex.join(["env", *variables]) + " " if variables else ""
    if stage.kind == records.COMMAND:
        return [front + shlex.join(["megabiomed", *stage.typed])]
    hosts = stage.nodes + sum(part.nodes for part in stage.components)
    words = shlex.join(["-m", "megabiomed.cli", *stage.typed])
    counts = dict.fromkeys([stage.ranks_per_node, *(part.ranks_per_node for part in stage.components)])
    return [f"{front}{torchrun(hosts, count)} {words}" for count in counts]
