"""The rank grid pp x dp x tp (tensor fastest) and its process groups, shared by megatron-core, DeepSpeed and FSDP2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from megabiomed.config import ParallelConfig
from megabiomed.config.topology import data_parallel_size
from megabiomed.processes import platform

_OUTSIDE = cast(dist.ProcessGroup, dist.GroupMember.NON_GROUP_MEMBER)


@dataclass(frozen=True)
class Mesh:
    """Sizes, this rank's coordinates, and groups of the topology. rank = (pp_rank * dp + dp_rank) * tp + tp_rank.

    Attributes:
        beside: ranks after those of the model that hold nothing of it; they have no coordinates and no groups of the grid.
        everyone: group of all ranks of the model; None (torch's word for the world) where there are no others.
        beside_group: group of the ranks beside the model, on those.
    """

    tp: int
    pp: int
    dp: int
    rank: int
    tp_group: dist.ProcessGroup
    pp_group: dist.ProcessGroup
    dp_group: dist.ProcessGroup
    model_group: dist.ProcessGroup
    beside: int = 0
    everyone: dist.ProcessGroup | None = None
    beside_group: dist.ProcessGroup | None = None

    @property
    def size(self) -> int:
        """Ranks of the model, which are the first of the world."""
        return self.tp * self.pp * self.dp

    @property
    def world(self) -> int:
        """Number of processes."""
        return self.size + self.beside

    @property
    def in_model(self) -> bool:
        """Whether this rank holds a part of the model."""
        return self.rank < self.size

    @property
    def tp_rank(self) -> int:
        """Coordinate along the tensor axis."""
        return self.rank % self.tp

    @property
    def dp_rank(self) -> int:
        """Coordinate along the data axis."""
        return self.rank // self.tp % self.dp

    @property
    def pp_rank(self) -> int:
        """Coordinate along the pipeline axis."""
        return self.rank // (self.tp * self.dp)

    @property
    def is_last_stage(self) -> bool:
        """True on the ranks that compute the loss."""
        return self.pp_rank == self.pp - 1

    def sum_over(self, group: dist.ProcessGroup, *values: float) -> list[float]:
        """Sum of each value over a group, in fp64."""
        tensor = torch.tensor(values, dtype=torch.float64, device=platform.device())
        dist.all_reduce(tensor, group=group)
        return [float(value) for value in tensor]

    def place(self) -> str:
        """`pp 0/2 x dp 0/1 x tp 1/2`: this rank's coordinates; `encoders 0/1` of one beside the model."""
        if not self.in_model:
            return f"encoders {self.rank - self.size}/{self.beside}"
        return f"pp {self.pp_rank}/{self.pp} x dp {self.dp_rank}/{self.dp} x tp {self.tp_rank}/{self.tp}"

    def describe(self) -> str:
        """`pp 2 x dp 1 x tp 2 = 4 processes`."""
        return f"pp {self.pp} x dp {self.dp} x tp {self.tp} = {self.size} processes"


def build_mesh(parallel: ParallelConfig, beside: int = 0) -> Mesh:
    """Create megatron-core's groups for this topology. torch.distributed must be initialised. Collective over the world.

    Args:
        beside: the last ranks of the world, which the topology leaves out.
    """
    world, rank = dist.get_world_size(), dist.get_rank()
    tp, pp = parallel.tensor_parallel_size, parallel.pipeline_parallel_size
    dp, size = data_parallel_size(parallel, world, beside), world - beside
    parallel_state.destroy_model_parallel()
    with _world_of(size):
        parallel_state.initialize_model_parallel(
            tensor_model_parallel_size=tp, pipeline_model_parallel_size=pp, create_gloo_process_groups=False
        )
    if not beside:
        return Mesh(tp, pp, dp, rank, *_grid_groups())
    everyone, others = dist.new_group(range(size)), dist.new_group(range(size, world))
    groups = _grid_groups() if rank < size else (_OUTSIDE, _OUTSIDE, _OUTSIDE, _OUTSIDE)
    return Mesh(tp, pp, dp, rank, *groups, beside, everyone, others)


def _grid_groups() -> tuple[dist.ProcessGroup, dist.ProcessGroup, dist.ProcessGroup, dist.ProcessGroup]:
    """This rank's groups, as megatron-core made them, in the order of `Mesh`."""
    return (
        parallel_state.get_tensor_model_parallel_group(),
        parallel_state.get_pipeline_model_parallel_group(),
        parallel_state.get_data_parallel_group(),
        parallel_state.get_model_parallel_group(),
    )


@contextmanager
def _world_of(size: int) -> Iterator[None]:
    """megatron-core 0.16.1 lays its grid over torch's world. Here it sees the first `size` ranks of it alone.

    The others call it too, because making a group is collective over the world, and get none.
    """
    asked = torch.distributed.get_world_size
    try:
        torch.distributed.get_world_size = lambda group=None: size if group is None else asked(group)
        yield
    finally:
        torch.distributed.get_world_size = asked


class DeepSpeedTopology:
    """The `mpu` object that DeepSpeed asks about the grid: its norm spans tensor x pipeline, its shards the data axis."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh

    def get_data_parallel_group(self) -> dist.ProcessGroup:
        """Group over which ZeRO partitions."""
        return self.mesh.dp_group

    def get_data_parallel_rank(self) -> int:
        """Rank in that group."""
        return self.mesh.dp_rank

    def get_data_parallel_world_size(self) -> int:
        """Size of that group."""
        return self.mesh.dp

    def get_data_parallel_group_ranks(self) -> list[int]:
        """Global ranks of that group."""
        return dist.get_process_group_ranks(self.mesh.dp_group)

    def get_model_parallel_group(self) -> dist.ProcessGroup:
        """Group over which squared norms are summed: every tensor shard of every stage."""
        return self.mesh.model_group

    def get_model_parallel_rank(self) -> int:
        """Unique per (stage, shard)."""
        return self.mesh.pp_rank * self.mesh.tp + self.mesh.tp_rank

    def get_model_parallel_world_size(self) -> int:
        """Stages x shards."""
        return self.mesh.pp * self.mesh.tp

    def get_tensor_model_parallel_group(self) -> dist.ProcessGroup:
        """Ranks that share each matrix."""
        return self.mesh.tp_group

    def get_tensor_model_parallel_rank(self) -> int:
        """Rank in that group."""
        return self.mesh.tp_rank

    def get_tensor_model_parallel_world_size(self) -> int:
        """Size of that group."""
        return self.mesh.tp

    def get_pipeline_model_parallel_rank(self) -> int:
        """Stage of this rank."""
        return self.mesh.pp_rank

    def get_pipeline_model_parallel_world_size(self) -> int:
        """Number of stages."""
        return self.mesh.pp
