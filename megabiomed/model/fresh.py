"""Fresh weights: the same for every topology, and made where they are needed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from math import prod, sqrt

import numpy as np
import torch
from numpy.typing import NDArray

from megabiomed.checkpoint.logical import Box
from megabiomed.config.models import ModelConfig
from megabiomed.model.registry import architecture_of

# Elements; 4 MiB in fp32. Another size would give other fresh weights.
_BLOCK = 1 << 20
_MOST_THREADS = 16  # what places the blocks is one thread


class SeededInit:
    """Fresh weights, a pure function of (seed, tensor name, position); implements `DirectSource`.

    The table of the architecture says how each tensor starts; optimizer moments are zeros. Rows are drawn in blocks of
    about a million elements, each from its own counter-based generator (Philox, Salmon et al. 2011). So a box costs the rows
    it touches, and any number of threads draws the same numbers.
    """

    def __init__(self, config: ModelConfig, seed: int) -> None:
        self._architecture, self._seed = architecture_of(config), seed
        self._last: tuple[Box, NDArray[np.float32]] | None = None

    def read(self, box: Box, kind: str = "param") -> torch.Tensor:
        """Values of one box as fp32, shape `box.shape`."""
        values = torch.empty(box.shape)
        self.read_into(box, values, kind)
        return values

    def read_into(self, box: Box, out: torch.Tensor, kind: str = "param") -> None:
        """Fill `out`, of shape `box.shape`, with the values of one box, in its own type and on its own device."""
        constant = 0.0 if kind != "param" else self._constant(box.name)
        if constant is not None:
            out.fill_(constant)
            return
        blocks = list(_touched(box))
        # The threads do NumPy alone: torch in each of them would start a team of threads of its own.
        for block, values in zip(blocks, _threads(os.getpid()).map(self._block, blocks), strict=True):
            part = block.intersect(box)
            assert part is not None
            out[part.slices_in(box)] = torch.from_numpy(values)[part.slices_in(block)]
            self._last = block, values  # boxes that share a block follow one another

    def _constant(self, name: str) -> float | None:
        return {"ones": 1.0, "zeros": 0.0}.get(self._architecture.tensors[name].spec.initial)

    def _block(self, block: Box) -> NDArray[np.float32]:
        last = self._last
        if last is not None and last[0] == block:
            return last[1]
        number = block.offset[0] // _height(block)
        digest = hashlib.sha256(f"{self._seed}/{block.name}/{number}".encode()).digest()
        generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
        return self._drawn(generator, block)

    def _drawn(self, generator: np.random.Generator, block: Box) -> NDArray[np.float32]:
        drawn = generator.standard_normal(block.shape, dtype=np.float32)
        drawn *= np.float32(self._architecture.deviation(block.name))
        return drawn


class AdapterInit(SeededInit):
    """Fresh low-rank adapters: B is zero, A is uniform within 1 / sqrt(inputs), as peft starts them."""

    def _constant(self, name: str) -> float | None:
        return 0.0 if name.endswith(".lora_B.weight") else None

    def _drawn(self, generator: np.random.Generator, block: Box) -> NDArray[np.float32]:
        limit, drawn = 1 / sqrt(block.global_shape[1]), generator.random(block.shape, dtype=np.float32)
        drawn *= np.float32(2 * limit)
        drawn -= np.float32(limit)
        return drawn


def _height(box: Box) -> int:
    """Rows of a block of this tensor."""
    return max(1, _BLOCK // prod(box.global_shape[1:]))


def _touched(box: Box) -> Iterator[Box]:
    """The blocks that a box has elements of: whole rows."""
    height, rows = _height(box), box.global_shape[0]
    for low in range(box.offset[0] // height * height, box.offset[0] + box.shape[0], height):
        offset = (low,) + (0,) * (len(box.shape) - 1)
        yield Box(box.name, box.global_shape, offset, (min(height, rows - low), *box.global_shape[1:]))


@cache
def _threads(process: int) -> ThreadPoolExecutor:
    """Threads of this process, one per core that it may use: NumPy draws without the interpreter's lock."""
    # The ranks of a host share its cores.
    cores = len(os.sched_getaffinity(0)) // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    return ThreadPoolExecutor(max(1, min(_MOST_THREADS, cores)), thread_name_prefix="fresh-weights")
