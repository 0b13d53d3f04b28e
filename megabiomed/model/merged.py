"""Adapters of a checkpoint: which they are, and the model with them merged into its matrices."""

from __future__ import annotations

import torch

from megabiomed.checkpoint.logical import Box, TensorSource
from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.config import LoraConfig, ModelConfig
from megabiomed.config.models import stored_model
from megabiomed.ground.errors import CheckpointError
from megabiomed.model.architecture import Architecture
from megabiomed.model.registry import architecture_of


class MergedSource:
    """W + scale * B A of a checkpoint of adapters, box by box; implements `TensorSource` for the whole model."""

    def __init__(self, checkpoint: Checkpoint, base: TensorSource, model: ModelConfig, lora: LoraConfig) -> None:
        self.checkpoint = checkpoint
        self.base = base
        self.lora = lora
        self._adapted = {tensor.name: tensor for tensor in architecture_of(model).adapted(lora)}

    def read(self, box: Box, kind: str = "param") -> torch.Tensor:
        """Values of one box as fp32; moments of merged weights do not exist and read as zeros."""
        if kind != "param":
            return torch.zeros(box.shape)
        values = self.base.read(box)
        if box.name in self._adapted:
            a, b = self._adapted[box.name].factors(self.lora.rank)
            (row, column), (rows, columns) = box.offset, box.shape
            left = self.checkpoint.read(Box(b.name, b.shape, (row, 0), (rows, b.shape[1])))
            right = self.checkpoint.read(Box(a.name, a.shape, (0, column), (a.shape[0], columns)))
            # In fp64, so that the sum does not depend on how the matrix is cut into boxes.
            values = values.double().addmm_(left.double(), right.double(), alpha=self.lora.scale).float()
        return values


def adapters_of(checkpoint: Checkpoint) -> LoraConfig | None:
    """The adapters' configuration of a checkpoint that stores adapters, else None."""
    return checkpoint.trainer.lora


def check_adapters(checkpoint: Checkpoint, lora: LoraConfig | None) -> None:
    """Refuse to go on with other adapters than a checkpoint's, or without any; dropout may change.

    Raises:
        CheckpointError: naming both.
    """
    architecture = architecture_of(stored_model(checkpoint.architecture, str(checkpoint.path)))
    before, now = (_function_of(each, architecture) for each in (adapters_of(checkpoint), lora))
    if before != now:
        raise CheckpointError(
            f"{checkpoint.path} was trained with other adapters", got=now, expected=before,
            do="restore the section `lora`, or begin another run that starts from this one (finetune.start_from)",
        )  # fmt: skip


def _function_of(lora: LoraConfig | None, architecture: Architecture) -> str:
    if lora is None:
        return "none"
    return f"rank {lora.rank}, alpha {lora.alpha:g} on {', '.join(architecture.targets(lora))}"
