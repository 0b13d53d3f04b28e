"""The process groups of the rank grid (config/grid.py), shared by megatron-core, DeepSpeed and FSDP2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch.distributed as dist

from megabiomed.config import ParallelConfig
from megabiomed.config.grid import SPANS, Axis, Grid, Span
from megabiomed.config.topology import grid_of
from megabiomed.engine import patches, workarounds
from megabiomed.processes import messages
from megabiomed.processes.megatron_core import (
    parallel_state,
)


@dataclass(frozen=True)
class Mesh:
    """This rank's place in the grid, and its process group along each span of it (`config.grid.SPANS`).

    Attributes:
        groups: this rank's group of each set of axes; none on a rank outside the model.
        ends: this rank and its partner on the other end of the pipeline, the first stage's first; None between and without.
        extra_ranks: ranks after those of the model that hold nothing of it; they have no coordinates.
        everyone: group of all ranks of the model; None (torch's word for the world) where there are no others.
        extra_group: group of the ranks outside the model, on those.
    """

    grid: Grid
    rank: int
    groups: Mapping[tuple[Axis, ...], dist.ProcessGroup]
    ends: dist.ProcessGroup | None = None
    extra_ranks: int = 0
    everyone: dist.ProcessGroup | None = None
    extra_group: dist.ProcessGroup | None = None

    def size(self, span: Span) -> int:
        """Ranks along a span."""
        return self.grid.size(span)

    def coordinate(self, span: Span) -> int:
        """This rank's place along a span, from 0. Only a rank of the model has one."""
        return self.grid.coordinate(self.rank, span)

    def group(self, span: Span) -> dist.ProcessGroup:
        """This rank's process group along a span; the rank in it is the coordinate."""
        return self.groups[SPANS[span]]

    @property
    def world(self) -> int:
        """Number of processes."""
        return len(self.grid) + self.extra_ranks

    @property
    def in_model(self) -> bool:
        """Whether this rank holds a part of the model."""
        return self.rank in self.grid

    @property
    def replica(self) -> int | None:
        """Which replica's samples this rank reads; None on a rank outside the model."""
        return self.coordinate("replicas") if self.in_model else None

    def sum_over(self, group: dist.ProcessGroup, *values: float) -> list[float]:
        """Sum of each value over a group, in fp64."""
        return messages.combined(values, dist.ReduceOp.SUM, group)

    def place(self) -> str:
        """`pp 0/2 x dp 0/1 x tp 1/2`: this rank's coordinates; `encoders 0/1` of one outside the model."""
        if not self.in_model:
            return f"encoders {self.rank - len(self.grid)}/{self.extra_ranks}"
        return self.grid.place(self.rank)

    def describe(self) -> str:
        """`pp 2 x dp 1 x tp 2 = 4 processes`."""
        return f"{self.grid.describe()} = {len(self.grid)} processes"


def build_mesh(parallel: ParallelConfig, extra_ranks: int = 0) -> Mesh:
    """Create megatron-core's groups for this topology. torch.distributed must be initialised. Collective over the world.

    Args:
        extra_ranks: the last ranks of the world, which the topology leaves out.
    """
    world, rank = dist.get_world_size(), dist.get_rank()
    grid = grid_of(parallel, world, extra_ranks)
    patches.check("megatron-core")
    # megatron-core refuses to initialise twice in one process.
    parallel_state.destroy_model_parallel()
    with workarounds.world_of(len(grid)):
        parallel_state.initialize_model_parallel(
            tensor_model_parallel_size=grid.size("tp"), pipeline_model_parallel_size=grid.size("pp"),
            create_gloo_process_groups=False,
        )  # fmt: skip
    groups = _megatron_groups() if rank in grid else {}
    for axes, group in groups.items():
        _check_alike(grid, rank, axes, group)
    ends = parallel_state.get_embedding_group(check_initialized=False) if rank in grid and grid.size("pp") > 1 else None
    if not extra_ranks:
        return Mesh(grid, rank, groups, ends)
    # Making a group is collective over the world, so every rank makes both.
    everyone, others = dist.new_group(range(len(grid))), dist.new_group(range(len(grid), world))
    return Mesh(grid, rank, groups, ends, extra_ranks, everyone, others)


def _megatron_groups() -> dict[tuple[Axis, ...], dist.ProcessGroup]:
    """This rank's groups, as megatron-core made them."""
    return {
        SPANS["tp"]: parallel_state.get_tensor_model_parallel_group(),
        SPANS["pp"]: parallel_state.get_pipeline_model_parallel_group(),
        SPANS["dp"]: parallel_state.get_data_parallel_group(),
        SPANS["model"]: parallel_state.get_model_parallel_group(),
    }


def _check_alike(grid: Grid, rank: int, axes: tuple[Axis, ...], group: dist.ProcessGroup) -> None:
    """megatron-core's layers and this grid must mean the same ranks: a difference would sum over the wrong ones, silently."""
    span = next(name for name, held in SPANS.items() if held == axes)
    ours, theirs = grid.group(rank, span), dist.get_process_group_ranks(group)
    assert ours == theirs, f"{span} of rank {rank} in {grid.describe()}: {ours}, megatron-core {theirs}"


class DeepSpeedTopology:
    """The `mpu` object that DeepSpeed asks about the grid: its norm spans `model`, its partitions `shards`.

    It offers no sequence-parallel size: DeepSpeed would divide gradients by another number (and a loss curve would hide it).
    """

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh

    def get_data_parallel_group(self) -> dist.ProcessGroup:
        """Group over which ZeRO partitions."""
        return self.mesh.group("shards")

    def get_data_parallel_rank(self) -> int:
        """Rank in that group."""
        return self.mesh.coordinate("shards")

    def get_data_parallel_world_size(self) -> int:
        """Size of that group."""
        return self.mesh.size("shards")

    def get_data_parallel_group_ranks(self) -> list[int]:
        """Global ranks of that group."""
        return dist.get_process_group_ranks(self.mesh.group("shards"))

    def get_model_parallel_group(self) -> dist.ProcessGroup:
        """Group over which squared norms are summed: every tensor shard of every stage."""
        return self.mesh.group("model")

    def get_model_parallel_rank(self) -> int:
        """Unique per (stage, shard)."""
        return self.mesh.coordinate("model")

    def get_model_parallel_world_size(self) -> int:
        """Stages x shards."""
        return self.mesh.size("model")

    def get_tensor_model_parallel_group(self) -> dist.ProcessGroup:
        """Ranks that share each matrix."""
        return self.mesh.group("tp")

    def get_tensor_model_parallel_rank(self) -> int:
        """Rank in that group."""
        return self.mesh.coordinate("tp")

    def get_tensor_model_parallel_world_size(self) -> int:
        """Size of that group."""
        return self.mesh.size("tp")

    def get_pipeline_model_parallel_rank(self) -> int:
        """Stage of this rank."""
        return self.mesh.coordinate("pp")

    def get_pipeline_model_parallel_world_size(self) -> int:
        """Number of stages."""
        return self.mesh.size("pp")
