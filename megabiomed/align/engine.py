"""Encoder-first training: encode the whole global batch once, run the language model, recompute and go backward.

(1) All molecules and proteins of the global batch are dealt to all ranks and encoded without gradients; (2) their
embeddings enter the language model as leaf tensors, under any tensor x pipeline x ZeRO layout; (3) the gradients travel
back and every rank encodes its share again, now with gradients, and goes backward once. Each rank calls each encoder the
same number of times in every step, whatever its samples hold, so that sharded encoders cannot hang.

With `align.dedicated_encoder_ranks` a rank has either the language model or encoders and adaptors, and takes part in the
phases of what it has; the exchanges, and one sum of the figures of the step, span the world.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor

from megabiomed.align.turns import Turns
from megabiomed.checkpoint.logical import Fragment, TensorSource
from megabiomed.checkpoint.reader import Checkpoint, load_fragments
from megabiomed.checkpoint.state import EngineState
from megabiomed.config import RunConfig
from megabiomed.config.align import AlignConfig, AlignmentStageConfig
from megabiomed.config.time_limits import time_limits
from megabiomed.data.packing import MicroBatch
from megabiomed.encoders.encoder import Batch
from megabiomed.encoders.encoder_stack import EncoderStack
from megabiomed.encoders.exchange import Exchange
from megabiomed.encoders.lora import item_noise
from megabiomed.encoders.modality import modality_of
from megabiomed.encoders.schedule import busiest, check_ranks, deal, largest
from megabiomed.engine.base import DataParallelEngine, Held
from megabiomed.engine.build import StepResult, TrainEngine, skipped_steps
from megabiomed.engine.frozen import FrozenEngine
from megabiomed.engine.fsdp import FsdpEngine
from megabiomed.engine.mesh import Mesh
from megabiomed.engine.no_model import NoModelEngine
from megabiomed.engine.replicas import Sums
from megabiomed.engine.zero import ZeroEngine
from megabiomed.kernels.dropout import Noise
from megabiomed.model.registry import architecture_of
from megabiomed.processes import messages, platform
from megabiomed.processes.hang import watched
from megabiomed.samples.multimodal.batch import AlignBatch


@dataclass
class _Share:
    """This rank's items of one modality: numbers, batch, encoder rows kept for a frozen encoder, noises of dropout."""

    numbers: list[int]
    batch: Batch
    rows: Tensor
    noises: list[Noise]


class AlignEngine(TrainEngine):
    """A language model with encoders and adaptors beside it.

    Attributes:
        turns: where encoder ranks wait for the language model.
        busiest: encoding work of the busiest rank over the mean, in the newest step.
    """

    def __init__(self, config: RunConfig, mesh: Mesh, align: AlignConfig, stage: AlignmentStageConfig) -> None:
        check_ranks(align, mesh.world)
        self.turns = Turns(mesh, time_limits(config.train).patient_s)
        super().__init__(config, mesh, _language_model(config, mesh, stage))
        self.align, self.stage = align, stage
        self._modalities = {part.name: modality_of(part.kind) for part in align.parts()}
        precision = config.train.compute_type
        hidden, group = config.model.hidden_size, mesh.extra_group
        self.encoders = EncoderStack(align, stage, config.optimizer, hidden, config.seed, precision, group)
        if self.turns.group is not None:
            first = len(mesh.grid)  # of those that read the files
            self.encoders.initial = messages.broadcast(self.encoders.initial, first, self.turns.group)
        self.dtype = platform.DTYPES[config.train.compute_type]
        self.template = ""
        self.busiest = 1.0
        self._compares = False

    @property
    def trains_language_model(self) -> bool:
        """Whether the language model, or its adapters, are trained in this stage."""
        return self.stage.language_model != "frozen"

    def stored_tensors(self) -> dict[str, tuple[int, ...]]:
        """Only what is trained is stored; frozen parts are referred to."""
        model = (
            architecture_of(self.config.model).trained_shapes(self.config.lora) if self.trains_language_model else {}
        )
        return {**model, **self.encoders.trained_shapes()}

    def extra_state(self) -> EngineState:
        """Stage, hashes of what the run began with, and the prompt template of the data."""
        found = EngineState(stage=self.stage.name, frozen=self.frozen, template=self.template)
        if self.config.lora is not None:
            found["stage_lora"] = self.config.lora
        return found

    def held(self) -> list[Held]:
        """See the base class."""
        return [*super().held(), *(self.encoders.parts_held() if self.encoders.held else ())]

    def compare_next(self) -> None:
        """See the base class."""
        super().compare_next()
        self._compares = self.encoders.held

    def before_update(self) -> None:
        """See the base class."""
        super().before_update()
        if self._compares:
            self._compares = False
            self.compared.append(Sums.of(list(self.encoders.reduced())))

    def fragments(self) -> list[Fragment]:
        """See the base class."""
        return [*self.data_parallel.fragments(), *self.encoders.fragments()]

    def load_weights(self, source: TensorSource) -> None:
        """Fill the language model; encoders and adaptors keep their own start where the source has none of them."""
        self.watch.forget()
        load_fragments(source, self.data_parallel.fragments(), ("param",))
        self.data_parallel.publish(source)
        self._load_encoders(source, ("param",))
        self.turns.language_model_goes_on(False)

    def _load_encoders(self, source: TensorSource, kinds: tuple[str, ...]) -> None:
        holds = getattr(source, "holds", lambda name: False)
        wanted = [f for f in self.encoders.fragments(trained_only=False) if holds(f.box.name)]
        load_fragments(source, wanted, kinds)

    def load_state(self, source: TensorSource, step: int) -> None:
        """Continue a stage: what it trains with moments, the rest as `load_weights` does."""
        applied = step - skipped_steps(source)
        self.load_trained(source)
        if self.base is not None and isinstance(source, Checkpoint):
            source = self.base.before(source)
        self.data_parallel.publish(source)
        frozen = set(self.encoders.shapes) - set(self.encoders.trained_shapes())
        holds = getattr(source, "holds", lambda name: False)
        rest = [f for f in self.encoders.fragments(trained_only=False) if f.box.name in frozen and holds(f.box.name)]
        load_fragments(source, rest, ("param",))
        self.data_parallel.set_step_count(applied)
        self.encoders.set_step_count(applied)
        self.optimizer_step_count = step
        self.turns.language_model_goes_on(False)

    def align_step(self, batch: AlignBatch, share_of_peak: float) -> StepResult:
        """One optimizer step. `share_of_peak` is the schedule's value in (0, 1]. Collective."""
        self.data_parallel.train(True)
        self.data_parallel.begin_step()
        exchange, shares, micro_batches = self._encode(batch, gradients=True)
        with self._watch("language model", batch, exchange):
            tokens, pairs = self.counted(batch.micro_batches) if self.mesh.in_model else (0.0, 0.0)
            loss = self._run_language_model(micro_batches, tokens) if self.mesh.in_model else 0.0
        self._backward(batch, exchange, shares, micro_batches)
        # Norms of disjoint parameters add as squares.
        of_encoders, of_model = (norm**2 for norm in self._update(loss, share_of_peak))
        self.optimizer_step_count += 1
        if self.mesh.extra_ranks:
            known = self._known_to_all(loss, tokens, pairs, of_encoders, of_model)
            loss, tokens, pairs, of_encoders, of_model = known
        return self.agreed(StepResult(loss, (of_encoders + of_model) ** 0.5, int(tokens), int(pairs)))

    def _update(self, loss: float, share_of_peak: float) -> tuple[float, float]:
        """Step encoders, adaptors and language model, or none of them; gradient norms of the first two and of the last."""
        device = platform.device()
        norm = self.encoders.reduce() if self.encoders.held else torch.zeros((), device=device)
        known = platform.Later(norm)
        self.gate.begin(torch.tensor(loss, device=device), norm)
        self.gradient_norms.begin()
        if self.encoders.held:
            self.gradient_norms.add(self.encoders.gradient_parts())
        self.before_update()
        # The model first: what the ranks agree on needs its norm.
        of_model = self.data_parallel.step(self.stage.lm_lr * share_of_peak) if self.trains_language_model else 0.0
        self.gradient_norms.finish()
        applied = math.isfinite(of_encoders := known.read())
        if self.gate.limits is not None:
            applied = self.gate.allows(0.0)  # of ranks that step no language model; the others have asked
        if self.encoders.held:
            self.encoders.update(share_of_peak, norm, applied)
        return of_encoders, of_model

    def _run_language_model(self, micro_batches: list[MicroBatch], tokens: float) -> float:
        """Phase 2, forward and backward: mean loss per unmasked token of the global batch."""
        # Engines average over the shards; their number as a factor turns that into the sum that the global mean needs.
        shards = self.mesh.size("shards")
        return self._sum_of_all(float(self.pipeline.run(micro_batches, shards / max(tokens, 1.0))) / shards)

    def _known_to_all(self, *figures: float) -> list[float]:
        """Figures of a step that the ranks of one half know and those of the other have as 0."""
        first = self.mesh.rank in (0, len(self.mesh.grid))  # of its half; the others of it know the same
        return self.mesh.sum_over(dist.group.WORLD, *(value if first else 0.0 for value in figures))

    def evaluate_items(self, batch: AlignBatch, tick: Callable[[], None]) -> tuple[float, int]:
        """As `evaluate`, of texts with molecules and proteins; zeros on a rank without language model. Collective."""
        _, _, filled = self._encode(batch, gradients=False)
        return self.turns.while_others_wait(lambda tell: self.evaluate(filled, tell), tick) or (0.0, 0)

    def logits(self, batch: MicroBatch) -> Tensor:
        """See the base class; nobody's on a rank without language model."""
        if self.mesh.in_model:
            return super().logits(batch)
        return torch.zeros(batch.tokens.numel(), self.config.model.vocab_size, device=platform.device())

    def _encode(self, batch: AlignBatch, gradients: bool) -> tuple[Exchange, dict[str, _Share], list[MicroBatch]]:
        """Phase 1: encode my share without gradients and deliver the rows as leaves of the micro-batches."""
        items = batch.items
        owners = deal(items, self.align, self.mesh.world)
        if gradients:
            self.busiest = busiest(items, self.align, owners, self.mesh.world)
        exchange = Exchange(self.mesh, items, owners)
        shares: dict[str, _Share] = {}
        outputs: dict[int, Tensor] = {}
        for modality in self._present(batch) if self.encoders.held else ():
            numbers = [n for n in exchange.mine if items[n].modality == modality]
            collated = self._modalities[modality].collate([batch.features(items[n]) for n in numbers])
            with self._watch(f"encode {modality}", batch, exchange), torch.no_grad():
                # Named by step and place in the global batch, so the second pass draws the same masks.
                step = self.optimizer_step_count
                noises = [item_noise(self.config.seed, step, number) for number in numbers] if gradients else []
                rows = self.encoders.encode(modality, collated, noises)
                shares[modality] = _Share(numbers, collated, rows, noises)
                out = self.encoders.adapt(modality, rows, collated.rows).to(self.dtype)
            outputs.update(zip(numbers, out.split([items[n].rows_out for n in numbers])))
        with self._watch("exchange of rows", batch, exchange):
            rows = exchange.deliver(torch.cat([self._no_rows(), *(outputs[n] for n in exchange.mine)]))
        return exchange, shares, self._filled(batch, rows, gradients)

    def _no_rows(self) -> Tensor:
        """No embeddings, [0, h]."""
        return torch.zeros(0, self.config.model.hidden_size, dtype=self.dtype, device=platform.device())

    def _present(self, batch: AlignBatch) -> list[str]:
        """Modalities that anybody has in this batch: the same answer on every rank."""
        return [name for name in self._modalities if any(item.modality == name for item in batch.items)]

    def _filled(self, batch: AlignBatch, rows: Tensor, gradients: bool) -> list[MicroBatch]:
        first_stage = self.mesh.in_model and self.mesh.coordinate("pp") == 0
        filled, start = [], 0
        for micro in self.with_noise(batch.micro_batches) if gradients else batch.micro_batches:
            assert micro.inserts is not None
            count = micro.inserts.places.numel() if first_stage else 0
            # A leaf even where nothing is inserted: a text-only batch must have a graph under a frozen model too.
            part = rows[start : start + count].detach().clone().requires_grad_(gradients)
            moved = micro.to(platform.device())
            assert moved.inserts is not None
            filled.append(replace(moved, inserts=replace(moved.inserts, rows=part)))
            start += count
        return filled

    def _backward(
        self, batch: AlignBatch, exchange: Exchange, shares: dict[str, _Share], filled: list[MicroBatch]
    ) -> None:
        """Phase 3: bring the gradients to the ranks that encoded, recompute, one backward per modality."""
        leaves = [m.inserts.rows for m in filled if m.inserts is not None and m.inserts.rows is not None]
        # A leaf that nothing was inserted from (text alone) has no gradient.
        parts = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
        # The schedule multiplies by the number of shards because engines average; encoders sum.
        with self._watch("exchange of gradients", batch, exchange):
            share = self._whole(torch.cat([self._no_rows(), *parts])) / self.mesh.size("shards")
            gradient = exchange.give_back(share).float()
        sizes = [batch.items[n].rows_out for n in exchange.mine]
        held = dict(zip(exchange.mine, gradient.split(sizes)))
        for modality, share in shares.items():
            with self._watch(f"backward {modality}", batch, exchange):
                self._backward_one(modality, share, [held[n] for n in share.numbers])

    def _whole(self, gradient: Tensor) -> Tensor:
        """Under sequence parallelism each tensor rank has the gradient of the rows that fell into its tokens."""
        if self.config.parallel.sequence_parallel and self.mesh.in_model:
            dist.all_reduce(gradient, group=self.mesh.group("tp"))
        return gradient

    def _backward_one(self, modality: str, share: _Share, gradients: list[Tensor]) -> None:
        trained = modality in self.encoders.trained
        # Rows of a frozen encoder are kept: only its adaptor is computed again.
        rows = self.encoders.encode(modality, share.batch, share.noises) if trained else share.rows
        # Cut here, so that the gradient can be scaled before it enters a sharded encoder.
        leaf = rows.detach().requires_grad_()
        out = self.encoders.adapt(modality, leaf, share.batch.rows)
        # A rank without items still goes backward, with nothing, so that sharded encoders reduce together.
        torch.autograd.backward(out, torch.cat([out.detach()[:0], *(g.to(out.dtype) for g in gradients)]))
        if trained:
            upstream = leaf.grad if leaf.grad is not None else torch.zeros_like(leaf)
            rows.backward(upstream * self.encoders.gradient_scale(modality))

    def _watch(self, phase: str, batch: AlignBatch, exchange: Exchange) -> AbstractContextManager[None]:
        def where() -> str:
            mine = largest([batch.items[n] for n in exchange.mine])
            return f"rank {self.mesh.rank} is in {phase} for {self.align.watchdog_s:g} s: {mine}"

        return watched(self.align.watchdog_s, where)


def _language_model(config: RunConfig, mesh: Mesh, stage: AlignmentStageConfig) -> DataParallelEngine:
    if not mesh.in_model:
        return NoModelEngine(mesh)
    if stage.language_model == "frozen":
        return FrozenEngine(config, mesh)
    return FsdpEngine(config, mesh) if config.parallel.engine == "fsdp2" else ZeroEngine(config, mesh)
