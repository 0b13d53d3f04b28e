"""Fresh weights: the same for every topology, and made where they are needed."""

from __future__ import annotations

import hashlib
from math import prod, sqrt

import numpy as np
import torch

from megabiomed.checkpoint.logical import Box
from megabiomed.config.models import ModelConfig
from megabiomed.model.registry import architecture_of

_BLOCK = 1 << 20


class SeededInit:
    """Fresh weights, a pure function of (seed, tensor name, position); implements `TensorSource`.

    The table of the architecture says how each tensor starts; optimizer moments are zeros. Rows are drawn in blocks of
    about a million elements, each from its own counter-based generator (Philox, Salmon et al. 2011), so that a box costs
    the rows it touches, and at most one block more is held in memory.
    """

    def __init__(self, config: ModelConfig, seed: int) -> None:
        self._architecture, self._seed = architecture_of(config), seed
        self._last: tuple[tuple[str, int], torch.Tensor] | None = None

    def read(self, box: Box, kind: str = "param") -> torch.Tensor:
        """Values of one box as fp32, shape `box.shape`."""
        if kind != "param":
            return torch.zeros(box.shape)
        constant = self._constant(box.name)
        return self._blocks(box) if constant is None else torch.full(box.shape, constant)

    def _constant(self, name: str) -> float | None:
        return {"ones": 1.0, "zeros": 0.0}.get(self._architecture.tensors[name].spec.initial)

    def _blocks(self, box: Box) -> torch.Tensor:
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
        return drawn.mul_(self._architecture.deviation(block.name))


class AdapterInit(SeededInit):
    """Fresh low-rank adapters: B is zero, A is uniform within 1 / sqrt(inputs), as peft starts them."""

    def _constant(self, name: str) -> float | None:
        return 0.0 if name.endswith(".lora_B.weight") else None

    def _drawn(self, generator: np.random.Generator, block: Box) -> torch.Tensor:
        limit = 1 / sqrt(block.global_shape[1])
        return torch.from_numpy(generator.random(block.shape, dtype=np.float32)).mul_(2 * limit).sub_(limit)
