"""Pipeline schedules: torch.distributed.pipelining drives any data-parallel engine; forward-only passes are our own.

The micro-batches never travel through the pipeline. Every rank loads them itself and the schedule carries only their index,
so document bounds, labels and positions cost no communication and no dynamic shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from megabiomed.config import RunConfig
from megabiomed.config.grid import PipelineParts
from megabiomed.config.pipeline_schedules import PIPELINE_SCHEDULES
from megabiomed.data.packing import MicroBatch
from megabiomed.engine.base import DataParallelEngine
from megabiomed.engine.mesh import Mesh
from megabiomed.model.rows import TokenRows
from megabiomed.processes import platform

if TYPE_CHECKING:
    from torch.distributed.pipelining import PipelineStage


class _ChunkModule(nn.Module):
    """What torch's PipelineStage calls: looks the micro-batch up by index. Holds no parameters that torch could see."""

    def __init__(self, pipeline: Pipeline, chunk: int) -> None:
        super().__init__()
        self.pipeline, self.chunk = pipeline, chunk

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        return self.pipeline.data_parallel.forward(self.chunk, x, self.pipeline.batches[int(index)])


class Pipeline:
    """Runs the micro-batches of one optimizer step through the stages, forward and backward."""

    def __init__(self, config: RunConfig, mesh: Mesh, engine: DataParallelEngine, micro_batches: int) -> None:
        self.config = config
        self.mesh = mesh
        self.data_parallel = engine
        self.batches: Sequence[MicroBatch] = []
        self.micro_batches = micro_batches
        self.parts = PipelineParts(mesh.size("pp"), config.parallel.virtual_pipeline_stages)
        self.stage = mesh.coordinate("pp") if mesh.in_model else 0
        self._schedule = self._build_schedule() if self.parts.stages > 1 and mesh.in_model else None

    @property
    def _rows(self) -> TokenRows:
        return TokenRows.of(self.mesh.size("tp"), self.mesh.coordinate("tp"), self.config.parallel.sequence_parallel)

    @property
    def _hidden(self) -> Tensor:
        """An example of what travels between stages: [t, h], or [t/tp, h] under sequence parallelism."""
        rows = self._rows.held(self.config.data.micro_batch_size * self.config.data.seq_length)
        dtype = platform.DTYPES[self.config.train.compute_type]
        shape = (rows, self.config.model.hidden_size)
        return torch.empty(shape, dtype=dtype, device=platform.device(), requires_grad=True)

    def _build_schedule(self) -> Any:
        # torch would divide gradients by the number of micro-batches (`scale_grads`); the loss has its factor already.
        # Imported where it is used: it loads torch's compiler, seconds that a run without a pipeline does not need.
        stages = [self._torch_stage(chunk) for chunk in range(self.parts.chunks)]
        entry = PIPELINE_SCHEDULES[self.config.parallel.pipeline_schedule]
        from torch.distributed import pipelining

        made = getattr(pipelining, entry.implementation)
        held = stages if entry.several_chunks else stages[0]
        return made(held, self.micro_batches, loss_fn=_total, scale_grads=False)

    def _torch_stage(self, chunk: int) -> PipelineStage:
        from torch.distributed.pipelining import PipelineStage

        number, total = self.parts.part(self.stage, chunk), len(self.parts)
        device = platform.device()
        index, loss = (
            torch.zeros(1, dtype=torch.int64, device=device),
            torch.zeros(1, device=device, requires_grad=True),
        )
        # With both examples torch need not infer shapes by a pass through all stages.
        return PipelineStage(
            _ChunkModule(self, chunk),
            number,
            total,
            device,
            input_args=(index if number == 0 else self._hidden,),
            output_args=(loss if number == total - 1 else self._hidden,),
            group=self.mesh.group("pp"),
        )

    @property
    def is_last(self) -> bool:
        """Whether this rank computes the loss."""
        return self.stage == self.parts.stage(len(self.parts) - 1)

    def run(self, batches: Sequence[MicroBatch], scale: float) -> Tensor:
        """Forward and backward of all micro-batches; gradients accumulate in the engine.

        Args:
            scale: factor of every micro-batch's summed loss. The head applies it, which has complete gradients after forward.

        Returns:
            the sum of the scaled losses on the last stage, 0 elsewhere; [] fp32 on the device, which nothing has waited for.
        """
        assert len(batches) == self.micro_batches
        self.batches = [replace(batch, loss_scale=scale) for batch in batches]
        if self._schedule is None:
            return self._run_alone()
        # The schedule cuts these into one index per micro-batch and hands one to each call of `_ChunkModule`, which reads it:
        # on the device, that would wait for all work before.
        index = torch.arange(self.micro_batches)
        losses: list[Tensor] = []
        inputs = (index.to(platform.device()),) if self.parts.part(self.stage, 0) == 0 else ()
        target = index if self.is_last else None
        self._schedule.step(*inputs, target=target, losses=losses, return_outputs=False, index=index)
        self.data_parallel.stage.finish_backward()
        total = torch.zeros((), device=platform.device())
        return sum((loss.detach() for loss in losses), total) if self.is_last else total

    def _run_alone(self) -> Tensor:
        total = torch.zeros((), device=platform.device())
        for batch in self.batches:
            loss = _total(self.data_parallel.forward(0, None, batch))
            loss.backward()
            total += loss.detach()
        return total

    @torch.no_grad()
    def forward_only(self, batches: Sequence[MicroBatch], return_logits: bool = False) -> list[Tensor]:
        """All micro-batches through all stages without gradients.

        Returns:
            on the last stage one tensor per micro-batch (summed loss [1], or logits [t, v/tp]); elsewhere nothing.
        """
        outputs: list[Tensor] = []
        pending: list[tuple[dist.Work, Tensor]] = []
        # In the order of the model, so that a rank with several chunks never waits for itself.
        for chunk, number in enumerate(self.parts.of_stage(self.stage)):
            for batch in batches:
                x = self._receive(batch, self.parts.stage(number - 1)) if number > 0 else None
                y = self.data_parallel.forward(chunk, x, batch, return_logits)
                if number == len(self.parts) - 1:
                    outputs.append(y)
                else:
                    # Asynchronous: a blocking send to a stage that is itself sending would deadlock.
                    # The tensor is kept with its send: the memory must live until the send is done.
                    pending.append((self._send(y, self.parts.stage(number + 1)), y))
        for work, _ in pending:
            work.wait()
        return outputs

    def _receive(self, batch: MicroBatch, stage: int) -> Tensor:
        hidden = self._hidden
        x = torch.empty(
            self._rows.held(batch.tokens.numel()), hidden.shape[1], dtype=hidden.dtype, device=hidden.device
        )
        dist.recv(x, group=self.mesh.group("pp"), group_src=stage)
        return x

    def _send(self, y: Tensor, stage: int) -> dist.Work:
        work = dist.isend(y.contiguous(), group=self.mesh.group("pp"), group_dst=stage)
        assert work is not None
        return work


def _total(scaled_loss: Tensor, _: Tensor | None = None) -> Tensor:
    """The [1] loss of a micro-batch as the number that backward starts from, with the gradient 1."""
    return scaled_loss.sum()
