"""Over how many nodes a run may go on when some are lost: planned at submission, with the reason where it cannot."""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING

from megabiomed.config import RunConfig
from megabiomed.config.topology import check_run
from megabiomed.ground.errors import ConfigError
from megabiomed.launch import records
from megabiomed.runs.kinds import part_run

if TYPE_CHECKING:
    from megabiomed.launch.stage import ChainStage


def smaller_sizes(config: RunConfig, nodes: int, ranks_per_node: int, least: int) -> tuple[int, ...]:
    """Counts of nodes below the asked one over which the run can go on, largest first.

    The model keeps its tensor and pipeline ranks, and its encoders theirs; there are fewer replicas, each of which accumulates
    more micro-batches, so that the global batch and the order of the data stay.

    Args:
        least: the smallest count to consider.
    """
    return tuple(count for count in range(nodes - 1, least - 1, -1) if obstacle(config, count * ranks_per_node) is None)


def obstacle(config: RunConfig, ranks: int) -> ConfigError | None:
    """Why the run cannot go on over so many ranks; None when it can."""
    try:
        check_run(without_replicas(config), ranks)
    except ConfigError as error:
        return error
    return None


def without_replicas(config: RunConfig) -> RunConfig:
    """The run with as many replicas as its ranks hold, however many it was written for."""
    parallel = config.parallel.model_copy(update={"data_parallel_size": None})
    return config.model_copy(update={"parallel": parallel})


def with_sizes(stage: ChainStage) -> ChainStage:
    """A stage with the counts of nodes with which its starts may run; then their ranks decide how many replicas each has.

    Raises:
        ConfigError: the cluster file asks that the stage shrinks (`shrink_after`), and it cannot.
    """
    # A command is one process; and one node has no fewer.
    if stage.config is None or stage.cluster.shrink_after is None or stage.nodes + len(stage.components) == 1:
        return stage
    sizes = (stage.nodes, *_planned(stage, part_run(stage.config, stage.part)))
    return replace(stage, sizes=sizes, config=without_replicas(stage.config))


def _planned(stage: ChainStage, config: RunConfig) -> tuple[int, ...]:
    nodes, each = stage.nodes, stage.ranks_per_node
    least = stage.cluster.min_nodes or ceil(nodes / 2)
    text = f"stage {stage.name} cannot go on with fewer nodes, as `shrink_after` asks"
    never = "set shrink_after: null in its cluster file"
    if stage.components:
        raise ConfigError(text, got="nodes of several kinds, which SLURM gives or refuses together", do=never)
    if least >= nodes:
        got, most = f"min_nodes {least} of {nodes} nodes", f"at most {nodes - 1}"
        raise ConfigError(text, got=got, expected=most, do=f"lower it, or {never}")
    found = smaller_sizes(config, nodes, each, least)
    if not found:
        below = smaller_sizes(config, least, each, 1)
        which = f"none of {least} to {nodes - 1} nodes fits" if least < nodes - 1 else f"{least} nodes do not fit"
        why = obstacle(config, (nodes - 1) * each)
        others = f"lower min_nodes to {below[0]}, or " if below else ""
        raise ConfigError(text, got=f"{which} {_of_model(config)}: {why}", do=f"{others}{never}")
    return found


def _of_model(config: RunConfig) -> str:
    parallel = config.parallel
    model = f"tensor {parallel.tensor_parallel_size} x pipeline {parallel.pipeline_parallel_size}"
    return f"{model} + {config.extra_ranks} encoder ranks" if config.extra_ranks else model


def spare_nodes(stage: ChainStage) -> int:
    """Nodes without ranks. A command has none, and nodes of one kind cannot stand in for those of another."""
    return 0 if stage.kind == records.COMMAND or stage.components else stage.cluster.spare_nodes


def outlives_nodes(stage: ChainStage) -> bool:
    """Whether a job goes on when it loses a node."""
    return spare_nodes(stage) > 0 if stage.cluster.no_kill is None else stage.cluster.no_kill


def size_flags(stage: ChainStage) -> dict[str, str | int | bool | None]:
    """How many nodes a job takes, and how many ranks on each."""
    least, most = stage.sizes[-1] if stage.sizes else stage.nodes, stage.nodes + spare_nodes(stage)
    if least == most:
        return {"nodes": most, "ntasks-per-node": stage.ranks_per_node}
    # Not --ntasks-per-node: SLURM keeps the number of tasks of a start, so a requeued job could not get fewer nodes (22.05).
    return {"nodes": f"{least}-{most}", "mincpus": stage.ranks_per_node * stage.cpus_per_task}
