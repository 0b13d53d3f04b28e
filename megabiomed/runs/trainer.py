"""The training run: set up, resume, step until done or asked to stop, save, report."""

from __future__ import annotations

import math
import time
from contextlib import closing
from pathlib import Path

import torch.distributed as dist

from megabiomed.config import RunConfig
from megabiomed.config.topology import check_run
from megabiomed.data.loader import (
    HeldOutLoader,
    SampleLoader,
    StepBatch,
    open_training_data,
    open_validation_data,
)
from megabiomed.data.progress import DataProgress
from megabiomed.data.store import TokenStore
from megabiomed.doctor.certify_import import certify_import
from megabiomed.engine.build import StepResult, TrainEngine, build_engine
from megabiomed.engine.mesh import build_mesh
from megabiomed.evaluate.in_training import TrainingEvaluation, training_evaluation
from megabiomed.ground.errors import NonFiniteError
from megabiomed.model.frozen import check_frozen, same_start
from megabiomed.model.merged import check_adapters
from megabiomed.model.start_from import adapter_chain, check_architecture, frozen_reference, model_base
from megabiomed.processes import platform
from megabiomed.processes.hang import HangGuard
from megabiomed.processes.signals import Request, StopFlag
from megabiomed.runs.checkpointing import (
    Checkpoints,
    ResumePoint,
    describe,
    find_resume_point,
    load,
    resumed_progress,
    take_over,
)
from megabiomed.runs.effective import keep
from megabiomed.runs.estimate import estimate
from megabiomed.runs.metrics import Reporter
from megabiomed.runs.schedule import learning_rate, total_steps
from megabiomed.tokenizer.check import check_tokenizer


class Trainer:
    """One rank of a training run. torch.distributed must be initialised; all ranks construct and run it together."""

    loader: SampleLoader
    validation: HeldOutLoader | None

    def __init__(self, config: RunConfig, stop: StopFlag) -> None:
        self.config, self.stop = config, stop
        world, rank = dist.get_world_size(), dist.get_rank()
        check_run(config, world)
        self.mesh = build_mesh(config.parallel, config.ranks_beside)
        self._open_data()
        self.evaluation = training_evaluation(config, self.mesh, self.tokenizer)
        self.total = total_steps(config, self.loader.samples_per_epoch)
        self.progress = DataProgress(identity=self.loader.identity)
        self.step = self.tokens = 0
        self._advanced = False  # the limit of the set-up holds until the first step of this start is done
        self.reporter = Reporter(config, rank == 0, world, self.total)
        if rank == 0:
            stop.watch(config.folder)
        limits = config.train.hang_timeout_s, config.train.hang_start_timeout_s
        place = f"{config.name}, rank {rank} of {self.mesh.place()}"
        self.guard = HangGuard(config.folder / "logs", rank, place, *limits)
        for line in estimate(config, world, self.total, self.loader.samples_per_epoch):
            self.reporter.say(line)
        for line in self.evaluation.lines if self.evaluation else []:
            self.reporter.say(line)
        self._start = self._find_start()

    def _open_data(self) -> None:
        """Set loader, validation and tokenizer."""
        config, mesh = self.config, self.mesh
        loader = open_training_data(config.data, config.seed, mesh.coordinate("replicas"), mesh.size("replicas"))
        validation = open_validation_data(
            config.data, config.train.eval_samples, mesh.coordinate("replicas"), mesh.size("replicas")
        )
        self.loader = loader
        self.validation = validation
        held_out = [TokenStore.open(config.data.validation)] if config.data.validation else []
        # The loader compared the training stores with each other.
        made = [loader.stores[0], *held_out]
        self.tokenizer = check_tokenizer(made, config.model.vocab_size, config.data.tokenizer).path

    def _build(self) -> TrainEngine:
        """The engine, without weights; beside adapters it knows where the frozen weights come from."""
        config, engine, resumed = self.config, build_engine(self.config, self.mesh), self._start.checkpoint
        if resumed is not None:
            check_adapters(resumed, config.lora)
        if config.lora is not None:
            start = self.starts_from if resumed is None else same_start(resumed, self.starts_from)
            engine.base = adapter_chain(start, config.model, config.seed)
            engine.frozen = {"language_model": frozen_reference(start, config.model, config.seed, config.folder)}
            if resumed is not None:
                check_frozen(resumed.trainer.frozen, engine.frozen, resumed.path)
        return engine

    @property
    def starts_from(self) -> Path | None:
        """The model that the run begins with, if it is not `model.init_from` or random."""
        return None

    @property
    def begins_with_folder(self) -> bool:
        """Whether a start from the beginning has the weights of `model.init_from` and no others."""
        return self.config.model.init_from is not None and self.starts_from is None

    def _load_initial(self) -> None:
        """Weights of a run that begins."""
        base, config = self.engine.base, self.config
        if base is not None:
            self.engine.load_weights(base)
            return
        start, _ = model_base(self.starts_from, config.model, config.seed, self.tokenizer)
        self.engine.load_weights(start)

    def _compute(self, batch: StepBatch, lr: float) -> StepResult:
        return self.engine.train_step(batch.micro_batches, lr)

    def _find_start(self) -> ResumePoint:
        """The checkpoint to continue from, checked against this configuration before anything is built."""
        config, point = self.config, find_resume_point(self.config)
        lines = describe(point)
        if point.checkpoint is not None:
            check_architecture(point.checkpoint, config.model)
            self.progress, verdict = resumed_progress(point.checkpoint, self.loader.identity, config)
            lines += verdict
            self.step, self.tokens = point.checkpoint.step, point.checkpoint.trainer.tokens_consumed
            self.loader.first_sample = self.progress.next_sample
        for line in lines:
            self.reporter.say(line)
        return point

    def _set_up(self) -> None:
        """Build the engine and fill it from the checkpoint or with initial weights."""
        config = self.config
        fence, changed = take_over(config, self._start)
        if changed:
            self._start = self._find_start()
        self.reporter.track()
        if self.reporter.active:
            self._keep()
        started = time.monotonic()
        self.engine = self._build()
        if self._start.checkpoint is not None:
            self.reporter.say(load(self.engine, self._start.checkpoint, self.step))
        else:
            self._load_initial()
            if self.begins_with_folder and config.checkpoint.certify_import:
                for line in certify_import(self.engine, config, self.tokenizer).lines():
                    self.reporter.say(line)
        self.checkpoints = Checkpoints(config, self.engine, self.tokenizer, fence)
        self.reporter.say(f"setup: {time.monotonic() - started:.1f} s")
        kind, sample = "resume" if self.step else "start", self.progress.next_sample
        self.reporter.event(kind, step=self.step, sample=sample, total_steps=self.total)

    def _keep(self) -> None:
        """Keep the effective configuration in the run folder."""
        keep(self.config)

    def run(self) -> str:
        """Train to the end or to a stop request.

        Returns:
            "finished"; "stopped" after a signal or `train.stop_after`; "ended" by the kill switch. The state is saved.
        """
        if self.step >= self.total:
            # Also for a start that was killed between its last commit and this event.
            self.reporter.say(f"finished already: step {self.step} of {self.total}")
            self._note("finished")
            self.guard.close()
            return "finished"
        try:
            self._set_up()
            return self._train()
        except Exception as error:
            self.reporter.event("failed", step=self.step, error=str(error))
            self.reporter.finish("FAILED")
            raise

    def _train(self) -> str:
        outcome, first = "finished", self.step
        if self.step == 0 and self.config.train.eval_every:
            self.validate()
        if self.step == 0 and self.config.eval.every:
            self.evaluate()
        self.reporter.start_clock()
        with closing(self.loader):
            batches = iter(self.loader)
            while self.step < self.total:
                self._train_one(next(batches))
                asked = self.stop.agreed()
                if asked >= Request.STOP or self.step - first == self.config.train.stop_after:
                    left = "ended" if asked == Request.END else "stopped"
                    outcome = left if self.step < self.total else outcome
                    break
                self._at_intervals(save=asked == Request.SAVE)
        self._leave(outcome)
        return outcome

    def _train_one(self, batch: StepBatch) -> None:
        if self._advanced:
            self.guard.beat("training step", self.step + 1, batch.sample_ids.tolist())
        self._advanced = True
        lr = learning_rate(self.step, self.total, self.config.optimizer)
        # Whatever draws random numbers in a step draws the same ones after a resume, on any topology.
        platform.seed_all(self.config.seed, self.step, self.mesh.replica or 0)
        result = self._compute(batch, lr)
        self._check_finite(result, batch)
        self.step += 1
        self.tokens += self.config.data.global_batch_size * self.config.data.seq_length
        self.progress = self.progress.advance(batch.sample_ids)
        self.reporter.step(self.step, result.loss, result.grad_norm, lr, result.loss_tokens)

    def _check_finite(self, result: StepResult, batch: StepBatch) -> None:
        if math.isfinite(result.loss) and math.isfinite(result.grad_norm):
            return
        self.reporter.event("non_finite", step=self.step + 1, loss=str(result.loss), grad_norm=str(result.grad_norm))
        raise NonFiniteError(
            f"step {self.step + 1} is not finite",
            got=f"loss {result.loss}, grad_norm {result.grad_norm}",
            do=f"nothing was saved; the batch begins at global sample {batch.first_sample} "
            f"(source, epoch, window of its first samples: {batch.sample_ids[:3].tolist()}); lower optimizer.lr or resume "
            "from the last checkpoint",
        )

    def _at_intervals(self, save: bool) -> None:
        every = self.config.train.eval_every
        if self.step >= self.total:
            return
        if every and self.step % every == 0:
            self.validate()
        if self.config.eval.every and self.step % self.config.eval.every == 0:
            self.evaluate()
        if self.checkpoints.due(self.step) or save:
            began = time.monotonic()
            self.checkpoints.save(self.step, self.progress, self.tokens)
            pause = round(time.monotonic() - began, 3)
            self.reporter.event("save", step=self.step, sample=self.progress.next_sample, pause_s=pause)
            self.reporter.start_clock()

    def validate(self) -> float | None:
        """Mean validation loss per token, reported; None without validation data. Disturbs neither data order nor state."""
        self.guard.beat("validation", self.step)
        found = self._held_out_loss()
        if found is None:
            return None
        total, tokens = found
        loss = total / max(1, tokens)
        self.reporter.validation(self.step, loss, tokens)
        return loss

    def _held_out_loss(self) -> tuple[float, int] | None:
        """Summed loss and unmasked tokens of the validation data; None without any. Collective."""
        return None if self.validation is None else self.engine.evaluate(self.validation.micro_batches())

    def evaluate(self) -> None:
        """Questions and perplexities of `eval`, reported. Disturbs neither data order nor state nor random numbers."""
        if self.evaluation is not None:
            self.reporter.evaluation(self.step, self._evaluated(self.evaluation))

    def _evaluated(self, evaluation: TrainingEvaluation) -> dict[str, float]:
        return evaluation.run(self.engine, lambda: self.guard.beat("evaluation", self.step))

    def _leave(self, outcome: str) -> None:
        self.guard.beat("last save", self.step)
        self.checkpoints.save(self.step, self.progress, self.tokens)
        self.checkpoints.wait()
        if outcome == "finished":
            self.validate()
            self.evaluate()
        self.reporter.summary()
        reason = f" ({self.stop.received})" if self.stop.received else ""
        self.reporter.say(f"{outcome}{reason}: step {self.step} of {self.total}, sample {self.progress.next_sample}, "
                          f"ids {self.progress.ids_hash}")  # fmt: skip
        self.guard.close()
        self._note(outcome)
        self.reporter.finish("FINISHED" if outcome == "finished" else "KILLED")

    def _note(self, outcome: str) -> None:
        progress = self.progress
        self.reporter.event(outcome, step=self.step, sample=progress.next_sample, ids_hash=progress.ids_hash)
