"""What a model asks of each rank of a topology, computed without starting a process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from megabiomed.config import LoraConfig, ModelConfig, OptimizerConfig, RunConfig
from megabiomed.config.base import parse
from megabiomed.config.parallel import ParallelConfig
from megabiomed.config.topology import check_run, grid_of
from megabiomed.ground.errors import ConfigError
from megabiomed.ground.mappings import leaves
from megabiomed.model.flops import held_by_stages

_KEYS = {
    "tp": "tensor_parallel_size",
    "pp": "pipeline_parallel_size",
    "dp": "data_parallel_size",
    "vpp": "virtual_pipeline_stages",
    "zero": "zero_stage",
    "engine": "engine",
    "schedule": "pipeline_schedule",
    "sp": "sequence_parallel",
    "offload": "offload_optimizer",
}
# checkpoint/tensorfile.py holds at most so much besides the state.
READ_BUFFER = 16 * 2**20


@dataclass(frozen=True)
class StageNeeds:
    """What the ranks of one pipeline stage need; of ranks that differ, the one that needs most.

    Attributes:
        ranks: global ranks [first, last] of the stage.
        parameters: of the stage's shard on one tensor rank.
        read_bytes: read from the checkpoint by one rank. Matrices cut by columns in pieces shorter than 4 KiB are read with
            what lies between, which adds at most one matrix per tensor rank.
        staging_bytes: host memory that a rank keeps for saving behind the training.
        load_bytes: host memory that loading takes besides the state itself.
        offload_bytes: masters and moments in host memory, with offload_optimizer.
    """

    stage: int
    ranks: tuple[int, int]
    parameters: int
    read_bytes: int
    staging_bytes: int
    load_bytes: int
    offload_bytes: int


def stage_needs(
    model: ModelConfig, parallel: ParallelConfig, world: int, optimizer: OptimizerConfig, lora: LoraConfig | None = None
) -> list[StageNeeds]:
    """The needs of every pipeline stage; the topology is legal (`check_run`).

    Beside adapters the frozen weights are neither saved nor in the checkpoint; what is read of them is not counted.
    """
    grid = grid_of(parallel, world)
    sharded = parallel.engine == "fsdp2" or parallel.zero_stage == 3
    # ZeRO-0 replicates the state; all others divide it.
    state_parts = 1 if parallel.engine == "deepspeed" and parallel.zero_stage == 0 else grid.size("shards")
    found = []
    for stage, held in enumerate(held_by_stages(model, parallel, lora)):
        ranks = [rank for rank in range(len(grid)) if grid.coordinate(rank, "pp") == stage]
        # fp32 masters and moments.
        state = (4 + optimizer.rule.moment_bytes) * -(-held // state_parts)
        found.append(
            StageNeeds(
                stage=stage,
                ranks=(ranks[0], ranks[-1]),
                parameters=held,
                # Compute weights of engines that hold whole shards are read a second time, as they are not sharded.
                read_bytes=state + (0 if sharded else 4 * held),
                staging_bytes=state,
                load_bytes=READ_BUFFER,
                offload_bytes=state if parallel.offload_optimizer else 0,
            )
        )
    return found


def parse_topology(text: str, config: RunConfig) -> tuple[ParallelConfig, int]:
    """A topology like `tp=2 pp=2 dp=4 zero=3`, checked against the rest of a run's configuration.

    Keys: tp, pp, dp, vpp, zero, engine, schedule, sp, offload; what is not named has its default.

    Returns:
        The topology and its number of processes.

    Raises:
        ConfigError: an unknown key or a value that cannot be read, or (TopologyError) a topology that is refused.
    """
    values: dict[str, Any] = {}
    for part in text.replace(",", " ").split():
        key, _, value = part.partition("=")
        if key not in _KEYS or not value:
            raise ConfigError("a topology cannot be read", got=repr(part), expected=f"{', '.join(_KEYS)} as key=value")
        values[_KEYS[key]] = yaml.safe_load(value)
    # One replica: with more of them a rank needs less, and never more.
    values.setdefault("data_parallel_size", 1)
    if values.get("virtual_pipeline_stages", 1) != 1:
        # Several chunks run under this schedule alone.
        values.setdefault("pipeline_schedule", "interleaved")
    parallel = parse(ParallelConfig, values, "the topology")
    assert isinstance(parallel, ParallelConfig)
    world = parallel.tensor_parallel_size * parallel.pipeline_parallel_size * (parallel.data_parallel_size or 1)
    check_run(config.model_copy(update={"parallel": parallel}), world + config.extra_ranks)
    return parallel, world


def config_differences(stored: dict[str, Any], given: dict[str, Any]) -> list[dict[str, Any]]:
    """Keys whose values differ between two configurations, dotted, with both values; a missing one is null."""
    ours, theirs = ({key: value for key, value in leaves(values) if value != {}} for values in (stored, given))
    return [
        {"key": key, "checkpoint": ours.get(key), "config": theirs.get(key)}
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key) != theirs.get(key)
    ]
