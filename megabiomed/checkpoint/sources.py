"""Sources of logical tensors: fresh weights, the same for every topology and made where they are needed, and chains."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from math import prod, sqrt

import numpy as np
import torch

from megabiomed.checkpoint.logical import Box, TensorSource, fill
from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.config.schema import ModelConfig

_BLOCK = 1 << 20
_RESIDUAL_OUTPUTS = ("self_attn.o_proj.weight", "mlp.down_proj.weight")


class SeededInit:
    """Initial Llama weights, a pure function of (seed, tensor name, position); implements `TensorSource`.

    Matrices are normal(0, initializer_range); the two that write into the residual stream are scaled by
    1/sqrt(2 * layers) (Radford et al. 2019, GPT-2, section 2.3; the default of Megatron-LM); norm weights are ones;
    optimizer moments are zeros. Rows are drawn in blocks of about a million elements, each from its own
    counter-based generator (Philox, Salmon et al. 2011), so that a box costs the rows it touches, and at most one
    block more is held in memory.
    """

    def __init__(self, config: ModelConfig, seed: int) -> None:
        self._config, self._seed = config, seed
        self._last: tuple[tuple[str, int], torch.Tensor] | None = None

    def read(self, box: Box, kind: str = "param") -> torch.Tensor:
        """Values of one box as fp32, shape `box.shape`."""
        if kind != "param":
            return torch.zeros(box.shape)
        if len(box.global_shape) < 2:
            return torch.ones(box.shape)
        values = torch.empty(box.shape)
        height = max(1, _BLOCK // prod(box.global_shape[1:]))
        first, end = box.offset[0], box.offset[0] + box.shape[0]
        for number in range(first // height, (end - 1) // height + 1):
            low = number * height
            block = Box(
                box.name,
                box.global_shape,
                (low,) + (0,) * (len(box.shape) - 1),
                (min(height, box.global_shape[0] - low), *box.global_shape[1:]),
            )
            part = block.intersect(box)
            assert part is not None
            values[part.slices_in(box)] = self._block(block, number)[part.slices_in(block)]
        return values

    def _block(self, block: Box, number: int) -> torch.Tensor:
        key = block.name, number
        if self._last is None or self._last[0] != key:
            digest = hashlib.sha256(f"{self._seed}/{block.name}/{number}".encode()).digest()
            generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
            self._last = key, self._drawn(generator, block)
        return self._last[1]

    def _drawn(self, generator: np.random.Generator, block: Box) -> torch.Tensor:
        drawn = torch.from_numpy(generator.standard_normal(block.shape, dtype=np.float32))
        return drawn.mul_(self._deviation(block.name))

    def _deviation(self, name: str) -> float:
        scale = 1 / sqrt(2 * self._config.num_hidden_layers) if name.endswith(_RESIDUAL_OUTPUTS) else 1.0
        return self._config.initializer_range * scale


class AdapterInit(SeededInit):
    """Fresh low-rank adapters: B is zero, A is uniform within 1 / sqrt(inputs), as peft starts them."""

    def read(self, box: Box, kind: str = "param") -> torch.Tensor:
        """Values of one box as fp32."""
        if box.name.endswith("lora_B.weight"):
            return torch.zeros(box.shape)
        return super().read(box, kind)

    def _drawn(self, generator: np.random.Generator, block: Box) -> torch.Tensor:
        limit = 1 / sqrt(block.global_shape[1])
        return torch.from_numpy(generator.random(block.shape, dtype=np.float32)).mul_(2 * limit).sub_(limit)


class ChainSource:
    """The first checkpoint that holds a tensor answers for it, else the base; implements `TensorSource`."""

    def __init__(self, checkpoints: Sequence[Checkpoint], base: TensorSource, base_names: frozenset[str]) -> None:
        self.checkpoints, self.base, self._names = list(checkpoints), base, base_names

    def holds(self, name: str) -> bool:
        """Whether anybody has the tensor."""
        return name in self._names or any(name in checkpoint.shapes for checkpoint in self.checkpoints)

    def _holder(self, name: str) -> TensorSource:
        return next((checkpoint for checkpoint in self.checkpoints if name in checkpoint.shapes), self.base)

    def read(self, box: Box, kind: str = "param") -> torch.Tensor:
        """Values of one box as fp32."""
        values = torch.empty(box.shape)
        self.read_into(box, values, kind)
        return values

    def read_into(self, box: Box, out: torch.Tensor, kind: str = "param") -> None:
        """Fill `out` with the values of one box."""
        fill(self._holder(box.name), box, out, kind)

    def before(self, checkpoint: Checkpoint) -> ChainSource:
        """The same chain with a newer checkpoint in front."""
        return ChainSource([checkpoint, *self.checkpoints], self.base, self._names)
