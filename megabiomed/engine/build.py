"""`TrainEngine`: everything that the trainer, the evaluation and the checkpoints need from a parallel model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor

from megabiomed.checkpoint.logical import Fragment, TensorSource
from megabiomed.checkpoint.reader import Checkpoint, load_fragments
from megabiomed.checkpoint.sources import ChainSource
from megabiomed.checkpoint.state import EngineState, Frozen
from megabiomed.config import RunConfig
from megabiomed.data.packing import MicroBatch
from megabiomed.engine.base import DataParallelEngine, Held
from megabiomed.engine.fsdp import FsdpEngine
from megabiomed.engine.mesh import Mesh
from megabiomed.engine.pipeline import Pipeline
from megabiomed.engine.replicas import Sums, Watch
from megabiomed.engine.zero import ZeroEngine
from megabiomed.ground.errors import CheckpointError
from megabiomed.kernels.dropout import Noise
from megabiomed.model.registry import architecture_of
from megabiomed.processes import platform

_TOGETHER = 8  # held-out micro-batches between two ticks


@dataclass(frozen=True)
class StepResult:
    """One optimizer step, equal on every rank.

    Attributes:
        loss: mean cross entropy per unmasked token of the global batch, in nats.
        grad_norm: global L2 norm before clipping.
        loss_tokens: unmasked tokens of the global batch.
        visible_pairs: (query, key) pairs of the global batch that see each other.
        applied: whether the update was applied; always, unless the engine's gate has limits.
    """

    loss: float
    grad_norm: float
    loss_tokens: int
    visible_pairs: int
    applied: bool = True


class TrainEngine:
    """A model spread over a mesh, with its optimizer and its schedule.

    Attributes:
        gate: refuses updates; the same object as the data-parallel engine's.
        gradient_norms: of each tensor in the last step, where `record_gradients` asked for them.
        optimizer_step_count: steps computed, those included whose update was refused.
    """

    def __init__(self, config: RunConfig, mesh: Mesh, engine: DataParallelEngine) -> None:
        self.config = config
        self.mesh = mesh
        self.data_parallel = engine
        self.gate = engine.gate
        self.gradient_norms = engine.gradient_norms
        micro_batches = config.data.global_batch_size // (config.data.micro_batch_size * mesh.size("replicas"))
        self.pipeline = Pipeline(config, mesh, engine, micro_batches)
        self.optimizer_step_count = 0
        self.base: ChainSource | None = None
        self.frozen: Frozen = {}
        self.watch = Watch()
        self.compared: list[Sums] = []

    def held(self) -> list[Held]:
        """All that lies on this rank from one update to the next."""
        return list(self.data_parallel.held())

    def compare_next(self) -> None:
        """In the next step, put sums of the reduced gradients and of tied copies into `compared`."""
        self.compared = []
        if next(iter(self.data_parallel.reduced_gradients()), None) is not None:
            self.data_parallel.see_gradients = self._see_gradients
        tied = self.data_parallel.stage.tied_end if self.mesh.in_model else None
        if tied is not None:
            tied.sums_next()

    @property
    def waits_for_gradients(self) -> bool:
        """Whether the step did not show what `compare_next` asked for: DeepSpeed left it out, perhaps on this rank alone."""
        return self.data_parallel.see_gradients is not None

    def _see_gradients(self) -> None:
        self.data_parallel.see_gradients = None
        self.compared.append(Sums.of(list(self.data_parallel.reduced_gradients())))

    def before_update(self) -> None:
        """Look at what is about to be used, where somebody asked for it: before any optimizer's step."""
        if self.watch.waits:
            self.watch.before_update(self.held())
        tied = self.data_parallel.stage.tied_end if self.mesh.in_model else None
        if tied is not None and (total := tied.take_sum()) is not None:
            copy = Held("tied copy of the embedding", total, (tied.group,))
            self.compared.append(Sums((copy,), total.reshape(1)))

    def end(self) -> None:
        """Let go of what would keep this engine in memory after its last reference; it cannot be used any more."""
        self.data_parallel.end()

    def num_parameters(self) -> int:
        """Parameters of the whole model."""
        return architecture_of(self.config.model).parameters()

    def stored_tensors(self) -> dict[str, tuple[int, ...]]:
        """Full shape of every tensor that a checkpoint of this engine must hold: what is trained."""
        return architecture_of(self.config.model).trained_shapes(self.config.lora)

    def record_gradients(self, wanted: bool) -> None:
        """Take the norm of each tensor's gradient in the steps that follow, or no longer. The same on every rank."""
        self.gradient_norms.record(self.stored_tensors() if wanted else ())

    def extra_state(self) -> EngineState:
        """What belongs into trainer.json besides the progress of the run."""
        lora = self.config.lora
        return {} if lora is None else {"frozen": self.frozen, "lora": lora}

    def load_weights(self, source: TensorSource) -> None:
        """Fill the weights from a Hugging Face folder or a fresh initialisation; the optimizer starts from zero."""
        self.watch.forget()
        load_fragments(source, self.fragments(), ("param",))
        self.data_parallel.publish(source)

    def load_state(self, source: TensorSource, step: int) -> None:
        """Continue from a checkpoint: weights, moments, and the optimizer's step; what it does not hold from `base`.

        Raises:
            CheckpointError: it was saved with another optimizer.
        """
        applied = step - skipped_steps(source)
        self.load_trained(source)
        # A checkpoint of adapters holds only what was trained; the rest comes from the base.
        if self.base is not None and isinstance(source, Checkpoint):
            source = self.base.before(source)
        self.data_parallel.publish(source)
        self.data_parallel.set_step_count(applied)
        self.optimizer_step_count = step

    def load_trained(self, source: TensorSource) -> None:
        """Weights and moments of what is trained; the compute weights are not made from them yet."""
        kinds, settings = self.config.optimizer.rule.kinds, self.config.optimizer
        if isinstance(source, Checkpoint) and not set(kinds) <= set(source.manifest.kinds()):
            raise CheckpointError(
                f"{source.path} was saved with another optimizer than {settings.kind}",
                got=", ".join(source.manifest.kinds()), expected=", ".join(kinds),
                do="set optimizer.kind to the one that it was saved with, or start a new run from its weights",
            )  # fmt: skip
        self.watch.forget()
        load_fragments(source, self.fragments(), kinds)

    def fragments(self) -> list[Fragment]:
        """This rank's part of the training state."""
        return self.data_parallel.fragments()

    def train_step(self, micro_batches: Sequence[MicroBatch], lr: float) -> StepResult:
        """Forward, backward and update over this rank's micro-batches of one global batch."""
        mesh = self.mesh
        tokens, pairs = self.counted(micro_batches)
        self.data_parallel.train(True)
        self.data_parallel.begin_step()
        batches = [batch.to(platform.device()) for batch in self.with_noise(micro_batches)]
        # Engines average over the shards; their number as a factor turns that into the sum that the global mean needs.
        mean = self._mean(self.pipeline.run(batches, mesh.size("shards") / max(tokens, 1.0)))
        loss = platform.Later(mean)
        self.gate.begin(mean)
        self.gradient_norms.begin()
        self.before_update()
        grad_norm = self.data_parallel.step(lr)
        self.gradient_norms.finish()
        self.optimizer_step_count += 1
        return self.agreed(StepResult(loss.read(), grad_norm, int(tokens), int(pairs)))

    def agreed(self, result: StepResult) -> StepResult:
        """The step with the figures that all ranks decide by, where the gate made them agree."""
        verdict = self.gate.verdict()
        if verdict is None:
            return result
        loss, norm = _told(verdict.loss, result.loss), _told(verdict.grad_norm, result.grad_norm)
        return replace(result, loss=loss, grad_norm=norm, applied=verdict.applied)

    def counted(self, micro_batches: Sequence[MicroBatch]) -> list[float]:
        """[unmasked tokens, visible pairs] of the global batch, of micro-batches that are still on the host."""
        tokens = sum(batch.num_loss_tokens for batch in micro_batches)
        pairs = sum(batch.visible_pairs for batch in micro_batches)
        return self.mesh.sum_over(self.mesh.group("replicas"), tokens, pairs)

    def with_noise(self, micro_batches: Sequence[MicroBatch]) -> Sequence[MicroBatch]:
        """The micro-batches of this rank with the names of their random numbers, where adapters have dropout."""
        if self.config.lora is None or not self.config.lora.dropout:
            return micro_batches
        data = self.config.data
        seed = self.config.seed
        step = self.optimizer_step_count
        # Noise is named by a token's place in the global batch, so every topology draws the same.
        before = self.mesh.coordinate("replicas") * data.global_batch_size // self.mesh.size("replicas")  # samples
        places = [(before + number * data.micro_batch_size) * data.seq_length for number in range(len(micro_batches))]
        return [replace(batch, noise=Noise.of_step(seed, step, place)) for batch, place in zip(micro_batches, places)]

    def _mean(self, scaled: Tensor) -> Tensor:
        """Mean over all shards of a number [] that only last stages have; the host does not wait for it."""
        total = scaled.double() / self.mesh.size("shards")
        for name in ("shards", "pp"):
            if self.mesh.size(name) > 1:
                dist.all_reduce(total, group=self.mesh.group(name))
        return total

    def _sum_of_all(self, value: float) -> float:
        """Sum over all shards of a value that only last stages have."""
        (total,) = self.mesh.sum_over(self.mesh.group("shards"), value)
        (total,) = self.mesh.sum_over(self.mesh.group("pp"), total)
        return total

    def evaluate(
        self, micro_batches: Sequence[MicroBatch], tick: Callable[[], None] = lambda: None
    ) -> tuple[float, int]:
        """(summed loss, unmasked tokens) of micro-batches over all replicas; every rank must bring equally many.

        Args:
            tick: called now and then on every rank at the same micro-batch; it may raise, on all ranks, to break off.
        """
        self.data_parallel.train(False)
        # Enough for every stage of a pipeline to have work, few enough to hear a request between them.
        together = max(_TOGETHER, self.mesh.size("pp"))
        losses: list[Tensor] = []
        try:
            for first in range(0, len(micro_batches), together):
                batches = [batch.to(platform.device()) for batch in micro_batches[first : first + together]]
                losses += self.pipeline.forward_only(batches)
                tick()
        finally:
            self.data_parallel.train(True)
        (tokens,) = self.mesh.sum_over(
            self.mesh.group("replicas"), sum(batch.num_loss_tokens for batch in micro_batches)
        )
        total = self._sum_of_all(float(sum(loss.double().sum() for loss in losses)))
        return total, int(tokens)

    def logits(self, batch: MicroBatch) -> Tensor:
        """Logits of one micro-batch, [t, vocab_size] fp32, on every rank."""
        self.data_parallel.train(False)
        parts = self.pipeline.forward_only([batch.to(platform.device())], return_logits=True)
        # The vocabulary is padded to a multiple of the tensor ranks; the padding is cut off at the end.
        padded = -(-self.config.model.vocab_size // self.mesh.size("tp"))
        device = platform.device()
        local = parts[0].float() if parts else torch.zeros(batch.tokens.numel(), padded, device=device)  # [t, v/tp]
        # Only the last stage has logits. The others add zeros, which makes the sum a broadcast.
        dist.all_reduce(local, group=self.mesh.group("pp"))
        shards = [torch.empty_like(local) for _ in range(self.mesh.size("tp"))]
        dist.all_gather(shards, local.contiguous(), group=self.mesh.group("tp"))
        self.data_parallel.train(True)
        return torch.cat(shards, dim=-1)[:, : self.config.model.vocab_size]  # [t, v]


def _told(agreed: float, seen: float) -> float:
    """What the ranks agree on; what is not finite as this rank has seen it: NaN or infinity."""
    return agreed if math.isfinite(agreed) or math.isfinite(seen) else seen


def skipped_steps(source: TensorSource) -> int:
    """Steps before a checkpoint whose update was not applied: the optimizer does not count them."""
    health = source.trainer.health if isinstance(source, Checkpoint) else None
    return health.skipped_steps if health else 0


def build_engine(config: RunConfig, mesh: Mesh) -> TrainEngine:
    """Construct the stage of this rank under the configured data-parallel engine. Weights are not loaded yet."""
    engine = FsdpEngine(config, mesh) if config.parallel.engine == "fsdp2" else ZeroEngine(config, mesh)
    return TrainEngine(config, mesh, engine)
