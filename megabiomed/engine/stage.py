"""The part of the model that lives on one pipeline rank, as one module that every data-parallel engine can wrap."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from megabiomed.checkpoint.logical import Placement
from megabiomed.config import RunConfig
from megabiomed.config.grid import PipelineParts
from megabiomed.data.packing import MicroBatch
from megabiomed.engine.mesh import Mesh
from megabiomed.kernels import fp8
from megabiomed.model.decoder import Chunk
from megabiomed.model.lora import freeze_base
from megabiomed.model.parallelize import TensorParallelLayers
from megabiomed.model.rates import lr_factors
from megabiomed.model.registry import architecture_of
from megabiomed.model.tying import CopiedEnd, OwnedEnd, TiedEnd
from megabiomed.processes import platform


class PipelineStage(nn.Module):
    """The chunks of this rank: one chunk, or several under an interleaved schedule (`PipelineParts`).

    Args:
        frozen: nothing of it is trained, whatever the configuration says.
    """

    placements: dict[str, Placement]

    def __init__(self, config: RunConfig, mesh: Mesh, dtype: torch.dtype, frozen: bool = False) -> None:
        super().__init__()
        architecture, parallel = architecture_of(config.model), config.parallel
        if config.train.precision == "fp8":
            fp8.require(platform.device())
        trains = architecture.tied and not frozen and config.lora is None
        self.tied_end = _tied_end(config, mesh) if trains else None
        layers = TensorParallelLayers(
            architecture, mesh.group("tp"), sequence_parallel=parallel.sequence_parallel, dtype=dtype, kernels=config.kernels,
            z_loss=config.train.z_loss, lora=config.lora, fp8=config.train.precision == "fp8", tied_end=self.tied_end,
        )  # fmt: skip
        parts = PipelineParts(mesh.size("pp"), parallel.virtual_pipeline_stages)
        ranges = architecture.chunks(len(parts))
        mine = [ranges[part] for part in parts.of_stage(mesh.coordinate("pp"))]
        recompute = parallel.activation_checkpointing
        self.chunks = nn.ModuleList(Chunk(architecture, layers, first, last, recompute) for first, last in mine)
        if config.lora is not None:
            freeze_base(self)
        # Engines replace parameter objects (FSDP2) or their data (ZeRO-3), so placements are kept by name.
        self.placements = {name: layers.placements[parameter] for name, parameter in self.named_parameters()}
        held = {piece.box.name for placement in layers.placements.values() for piece in placement.pieces}
        architecture.check_used(held, mine)

    def forward(self, chunk: int, x: Tensor | None, batch: MicroBatch, return_logits: bool = False) -> Tensor:
        """See `Chunk.forward`."""
        return self.chunks[chunk](x, batch, return_logits)

    def begin_step(self) -> None:
        """Before the first forward pass of a step, see `model.tying`."""
        if self.tied_end is not None:
            self.tied_end.begin_step()

    def finish_backward(self) -> None:
        """After the last backward pass of a step, see `model.tying`."""
        if self.tied_end is not None:
            self.tied_end.finish_backward()

    def weights_changed(self) -> None:
        """After a step, or after weights were loaded, see `model.tying`."""
        if self.tied_end is not None:
            self.tied_end.weights_changed()


def _tied_end(config: RunConfig, mesh: Mesh) -> TiedEnd | None:
    """This rank's side of a tied matrix that both ends of the pipeline compute with."""
    if mesh.ends is None:
        return None
    if mesh.coordinate("pp") == 0:
        # The owner counts backward passes: after the last one of a step the head's gradient must be there.
        share = config.data.micro_batch_size * mesh.size("replicas")
        return OwnedEnd(mesh.ends, config.data.global_batch_size // share)
    return CopiedEnd(mesh.ends, platform.DTYPES[config.train.compute_type], config.kernels.weight_gradient)


def optimizer_groups(stage: PipelineStage, config: RunConfig, mesh: Mesh) -> list[dict[str, object]]:
    """Optimizer groups of what is trained: by weight decay and by factor of the learning rate (`lr_scale`).

    Matrices are decayed, vectors (norm weights, biases) never. The shape is read before any engine flattens it; under ZeRO-3
    it is `ds_shape`. Every pipeline stage has the same number of groups, because DeepSpeed sums a norm over the stages for
    each. Collective where factors are given.
    """
    factor = lr_factors(config)
    found: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in stage.named_parameters():
        if not parameter.requires_grad:
            continue
        is_matrix = len(getattr(parameter, "ds_shape", parameter.shape)) > 1
        scale = factor({piece.box.name for piece in stage.placements[name].pieces})
        found.setdefault((is_matrix, scale), []).append(parameter)
    decay = config.optimizer.weight_decay
    groups: list[dict[str, Any]] = [
        {"params": found[key], "weight_decay": decay if key[0] else 0.0, "lr_scale": key[1]}
        for key in sorted(found, reverse=True)
    ]
    # Factors by name may give one stage a group that another lacks; without any, all have the same.
    if config.optimizer.lr_scales and mesh.size("pp") > 1:
        most = torch.tensor([len(groups)], device=platform.device())
        dist.all_reduce(most, op=dist.ReduceOp.MAX, group=mesh.group("pp"))
        _cut(groups, int(most))
    return groups


def _cut(groups: list[dict[str, Any]], number: int) -> None:
    """Cut the groups with the most parameters in two until there are so many."""
    while len(groups) < number:
        largest = max(groups, key=lambda group: len(group["params"]))
        half = len(largest["params"]) // 2
        groups.append({**largest, "params": largest["params"][half:]})
        largest["params"] = largest["params"][:half]


def set_rates(groups: list[dict[str, Any]], lr: float) -> None:
    """Give every optimizer group its learning rate."""
    for group in groups:
        group["lr"] = lr * group["lr_scale"]
