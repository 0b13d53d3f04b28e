"""Where a step first holds a number that is not finite: hooks on every layer, forward and backward.

The hooks read and change nothing, so that a watched step has the bits of one that is not. They make the host wait, so they are
for a step that is looked at, not for training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from megabiomed.data.packing import MicroBatch
from megabiomed.engine.build import TrainEngine
from megabiomed.engine.stage import PipelineStage
from megabiomed.model.decoder import Chunk
from megabiomed.model.rows import TokenRows

_MOST_TOKENS = 4096


@dataclass(frozen=True)
class NonFinite:
    """The first layer of a pass of a micro-batch that gives something not finite.

    Attributes:
        phase: "forward": its output; "backward": the gradient of its output.
        layer: common beginning of the logical names of its parameters, as `model.layers.3.mlp`.
        place: number of its part of the pipeline, then of its call there; from the last layer backward where `phase` says so.
        micro_batch: of this rank, from 0.
        tokens: of the micro-batch, whose rows are not finite, ascending; empty where a row is no token.
    """

    phase: str
    layer: str
    place: tuple[int, int]
    micro_batch: int
    tokens: tuple[int, ...]


class NonFiniteWatch:
    """Keeps the first finding of each micro-batch and pass on this rank.

    Attributes:
        found: in the order in which they came.
    """

    def __init__(self, engine: TrainEngine) -> None:
        self.found: list[NonFinite] = []
        self._engine = engine
        self._stage = engine.data_parallel.stage
        self._rows = TokenRows.of(
            engine.mesh.size("tp"), engine.mesh.coordinate("tp"), engine.config.parallel.sequence_parallel
        )
        self._batch: MicroBatch | None = None
        self._part = self._calls = 0
        self._seen: set[tuple[int, str, int]] = set()

    @contextmanager
    def watching(self) -> Iterator[NonFiniteWatch]:
        """Watch every layer of this rank's part of the model inside."""
        handles = []
        chunks = [module for module in self._stage.chunks if isinstance(module, Chunk)]
        for number, chunk in zip(self._engine.pipeline.parts.of_stage(self._engine.pipeline.stage), chunks):
            handles.append(chunk.register_forward_pre_hook(partial(self._enter, number)))
            handles += [block.register_forward_pre_hook(self._enter_block) for block in chunk.blocks]
        for name, module in self._stage.named_modules():
            if name and not isinstance(module, Chunk | nn.ModuleList):
                handles.append(module.register_forward_hook(self._hook(_layer(self._stage, name))))
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, part: int, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._part, self._calls = part, 0
        self._batch = inputs[1]

    def _enter_block(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        # A block that is computed again for the backward pass belongs to an earlier micro-batch than the last forward.
        held = [batch for batch in self._engine.pipeline.batches if any(batch.documents is each for each in inputs)]
        self._batch = held[0] if held else self._batch

    def _hook(self, layer: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            batch = self._batch
            if batch is None:
                return
            self._calls += 1
            place = (self._part, self._calls)
            for tensor in output if isinstance(output, tuple) else (output,):
                if isinstance(tensor, Tensor) and tensor.is_floating_point():
                    self._look("forward", layer, place, batch, tensor)
                    if tensor.requires_grad:
                        # Backward, the layers come in the opposite order.
                        back = (-place[0], -place[1])
                        tensor.register_hook(partial(self._look, "backward", layer, back, batch))

        return look

    def _look(self, phase: str, layer: str, place: tuple[int, int], batch: MicroBatch, values: Tensor) -> None:
        number = next((i for i, held in enumerate(self._engine.pipeline.batches) if held is batch), 0)
        if (number, phase, place[0]) in self._seen or bool(values.detach().isfinite().all()):
            return
        self._seen.add((number, phase, place[0]))
        self.found.append(NonFinite(phase, layer, place, number, self._tokens(values.detach(), batch)))

    def _tokens(self, values: Tensor, batch: MicroBatch) -> tuple[int, ...]:
        rows, total = values.shape[0] if values.dim() > 1 else 0, batch.tokens.numel()
        if rows not in (total, self._rows.held(total)):
            return ()
        first = 0 if rows == total else self._rows.first(rows)
        bad = (~values.flatten(1).isfinite().all(dim=1)).nonzero().reshape(-1)[:_MOST_TOKENS]
        return tuple(first + place for place in bad.tolist())


def _layer(stage: PipelineStage, name: str) -> str:
    """The logical name of a module; of one without parameters that of the module around it."""
    while name:
        names = [
            piece.box.name for key, placement in stage.placements.items() if key.startswith(f"{name}.")
            for piece in placement.pieces
        ]  # fmt: skip
        if names:
            return _common(names)
        name = name.rpartition(".")[0]
    return "model"


def _common(names: list[str]) -> str:
    parts = [name.split(".") for name in names]
    same = [group[0] for group in zip(*parts) if len(set(group)) == 1]
    # A whole name is that of a tensor, and the layer is what it belongs to.
    return ".".join(same[:-1] if len(same) == len(parts[0]) and len(same) > 1 else same)


@torch.no_grad()
def non_finite_state(engine: TrainEngine) -> list[str]:
    """Logical tensors of this rank whose weights or moments are not finite: `name` or `name (moment)`."""
    held = [*engine.fragments(), *engine.data_parallel.frozen_fragments()]
    return sorted(
        {
            fragment.box.name if kind == "param" else f"{fragment.box.name} ({kind})"
            for fragment in held for kind, view in fragment.views.items() if not bool(view.isfinite().all())
        }
    )  # fmt: skip
