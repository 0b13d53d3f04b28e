"""The small interface that every data-parallel engine offers to the pipeline, the trainer and the checkpoints."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from megabiomed.checkpoint.logical import Fragment, Placement, TensorSource, fill
from megabiomed.config.grid import Span
from megabiomed.config.optimizers import Optimizer
from megabiomed.data.packing import MicroBatch
from megabiomed.engine.gate import UpdateGate
from megabiomed.engine.gradient_norms import GradientNorms
from megabiomed.engine.mesh import Mesh
from megabiomed.engine.stage import PipelineStage


@dataclass(frozen=True)
class Held:
    """A tensor of the training state on this rank, or a reduced gradient, for those who compare.

    Attributes:
        name: of the parameter in its module, and what of it: `chunks.0.norm.weight (exp_avg)`.
        tensor: None where this rank takes part in the comparison and holds nothing.
        alike: groups whose ranks hold the same bits.
    """

    name: str
    tensor: Tensor | None
    alike: tuple[dist.ProcessGroup, ...] = ()


class DataParallelEngine(ABC):
    """One pipeline stage under one data-parallel scheme.

    Contract: the loss handed to backward is already divided by the global token count and multiplied by the number of
    shards, because all engines average gradients over those; the optimizer then sees the gradient of the global mean.

    Attributes:
        gradient_norms: told of the reduced gradients in each step, before they are clipped.
    """

    stage: PipelineStage
    see_gradients: Callable[[], None] | None = None
    """Called in `step` when gradients are reduced and nothing was updated; `reduced_gradients` gives them then."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.gate = UpdateGate()
        self.gradient_norms = GradientNorms()

    @abstractmethod
    def forward(self, chunk: int, x: Tensor | None, batch: MicroBatch, return_logits: bool = False) -> Tensor:
        """One micro-batch through one chunk (see `Chunk.forward`); may be called often before any backward."""

    @abstractmethod
    def begin_step(self) -> None:
        """Called before the first forward of an optimizer step."""

    @abstractmethod
    def step(self, lr: float) -> float:
        """Reduce what is left to reduce, clip, update where `gate` allows it; returns the global norm before clipping."""

    @abstractmethod
    def held(self) -> Iterator[Held]:
        """All that lies here from one update to the next: weights, masters, moments. The same names along each group."""

    def reduced_gradients(self) -> Iterator[Held]:
        """Reduced gradients that several ranks hold alike, while `see_gradients` is called."""
        return iter(())

    def end(self) -> None:  # noqa: B027 - most engines have none
        """Let go of hooks that would keep this engine, with its weights and moments, for the life of the process."""

    def alike(self, name: str, over_shards: bool) -> tuple[dist.ProcessGroup, ...]:
        """Groups of more than one rank that hold a parameter, or the same part of it, with the same bits.

        Args:
            over_shards: every data-parallel rank holds all of it.
        """
        spans: list[Span] = ["shards"] if over_shards else []
        spans += ["tp"] if self.stage.placements[name].replicated else []
        return tuple(self.mesh.group(span) for span in spans if self.mesh.size(span) > 1)

    def _show_gradients(self) -> None:
        if self.see_gradients is not None:
            self.see_gradients()

    @abstractmethod
    def train(self, mode: bool) -> None:
        """Switch between training and evaluation."""

    @abstractmethod
    def fragments(self) -> list[Fragment]:
        """This rank's boxes of fp32 master weights and moments, as views of the engine's storage."""

    @abstractmethod
    def frozen_fragments(self) -> list[Fragment]:
        """This rank's boxes of weights that are not trained, as views in the type that they are kept in."""

    @abstractmethod
    def publish(self, source: TensorSource) -> None:
        """After the views were filled from `source`: make the compute weights equal to the master weights."""

    @abstractmethod
    def set_step_count(self, step: int) -> None:
        """Set the optimizer's step number (bias correction) after loading moments."""


def flat_fragments(placement: Placement, start: int, flats: dict[str, Tensor], owner: bool) -> Iterator[Fragment]:
    """Fragments of elements [start, start + n) of a flattened local parameter, viewing the flat tensors of length n."""
    length = next(iter(flats.values())).numel()
    for where, box in placement.blocks(start, start + length):
        inside = slice(where.start - start, where.stop - start)
        yield Fragment(box, {kind: flat[inside].view(box.shape) for kind, flat in flats.items()}, owner)


def read_local(source: TensorSource, placement: Placement, out: Tensor) -> None:
    """Fill a whole local parameter from logical tensors; rows that belong to none (vocabulary padding) become 0."""
    with torch.no_grad():
        flat = out.detach().view(-1)
        covered = 0
        for where, box in placement.blocks():
            fill(source, box, flat[where].view(box.shape))
            covered += box.numel
        # Padding follows all pieces, so what is not covered is the end.
        if covered < flat.numel():
            flat[covered:].zero_()


def state_before_training(rule: Optimizer, master: Tensor, *, count_on_host: bool = False) -> dict[str, Tensor]:
    """What an optimizer keeps of a parameter before its first step; a checkpoint must be loadable before it."""
    moments = {kind: torch.zeros_like(master.detach()) for kind in rule.moments}
    if not rule.counts_steps:
        return moments
    device = torch.device("cpu") if count_on_host else master.device
    return {"step": torch.zeros((), dtype=torch.float32, device=device), **moments}


def set_steps(optimizer: torch.optim.Optimizer, step: int) -> None:
    """Set the step number, where the optimizer keeps one."""
    for state in optimizer.state.values():
        if "step" in state:
            state["step"].fill_(float(step))
