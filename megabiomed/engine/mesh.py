"""The rank grid pp x dp x tp (tensor fastest) and its process groups, shared by megatron-core, DeepSpeed and FSDP2."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from megabiomed import platform
from megabiomed.config import ParallelConfig
from megabiomed.config.topology import data_parallel_size


@dataclass(frozen=True)
class Mesh:
    """Sizes, this rank's coordinates, and groups of the topology. rank = (pp_rank * dp + dp_rank) * tp + tp_rank."""

    tp: int
    pp: int
    dp: int
    rank: int
    tp_group: dist.ProcessGroup
    pp_group: dist.ProcessGroup
    dp_group: dist.ProcessGroup
    model_group: dist.ProcessGroup

    @property
    def world(self) -> int:
        """Number of processes."""
        return self.tp * self.pp * self.dp

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
        """`pp 0/2 x dp 0/1 x tp 1/2`: this rank's coordinates."""
        return f"pp {self.pp_rank}/{self.pp} x dp {self.dp_rank}/{self.dp} x tp {self.tp_rank}/{self.tp}"

    def describe(self) -> str:
        """`pp 2 x dp 1 x tp 2 = 4 processes`."""
        return f"pp {self.pp} x dp {self.dp} x tp {self.tp} = {self.world} processes"


def build_mesh(parallel: ParallelConfig) -> Mesh:
    """Create megatron-core's groups for this topology. torch.distributed must be initialised."""
    world = dist.get_world_size()
    dp = data_parallel_size(parallel, world)
    parallel_state.destroy_model_parallel()
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=parallel.tensor_parallel_size,
        pipeline_model_parallel_size=parallel.pipeline_parallel_size,
        create_gloo_process_groups=False,
    )
    return Mesh(
        tp=parallel.tensor_parallel_size,
        pp=parallel.pipeline_parallel_size,
        dp=dp,
        rank=dist.get_rank(),
        tp_group=parallel_state.get_tensor_model_parallel_group(),
        pp_group=parallel_state.get_pipeline_model_parallel_group(),
        dp_group=parallel_state.get_data_parallel_group(),
        model_group=parallel_state.get_model_parallel_group(),
    )


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
