"""A language model that is not trained: no gradients, no optimizer, weights in the compute type."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor

from megabiomed.checkpoint.logical import Fragment, TensorSource
from megabiomed.config import RunConfig
from megabiomed.data.packing import MicroBatch
from megabiomed.engine.base import DataParallelEngine, Held, flat_fragments, read_local
from megabiomed.engine.mesh import Mesh
from megabiomed.engine.stage import PipelineStage
from megabiomed.processes import platform


class FrozenEngine(DataParallelEngine):
    """The stage of this rank, replicated over the data-parallel ranks. Gradients pass through it to the embeddings."""

    def __init__(self, config: RunConfig, mesh: Mesh) -> None:
        super().__init__(mesh)
        with torch.device(platform.device()):
            self.stage = PipelineStage(config, mesh, platform.DTYPES[config.train.compute_type], frozen=True)
        self.stage.requires_grad_(False)

    def forward(self, chunk: int, x: Tensor | None, batch: MicroBatch, return_logits: bool = False) -> Tensor:
        """See the base class."""
        return cast(Tensor, self.stage(chunk, x, batch, return_logits))

    def begin_step(self) -> None:
        """Nothing to begin."""

    def step(self, lr: float) -> float:
        """Nothing to update."""
        return 0.0

    def held(self) -> Iterator[Held]:
        """See the base class."""
        for name, parameter in self.stage.named_parameters():
            yield Held(name, parameter, self.alike(name, over_shards=True))

    def train(self, mode: bool) -> None:
        """See the base class."""
        self.stage.train(mode)

    def fragments(self) -> list[Fragment]:
        """Frozen weights are not stored: a checkpoint refers to them."""
        return []

    def frozen_fragments(self) -> list[Fragment]:
        """See the base class."""
        return [
            fragment for name, parameter in self.stage.named_parameters()
            for fragment in flat_fragments(self.stage.placements[name], 0, {"param": parameter.detach().view(-1)}, False)
        ]  # fmt: skip

    def publish(self, source: TensorSource) -> None:
        """Fill the weights."""
        for name, parameter in self.stage.named_parameters():
            read_local(source, self.stage.placements[name], parameter.data)

    def set_step_count(self, step: int) -> None:
        """There are no moments."""
