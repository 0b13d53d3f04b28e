"""The training run: set up, resume, step until done or asked to stop. What else happens in it are hooks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace

import torch.distributed as dist

from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.config import RunConfig
from megabiomed.config.time_limits import TimeLimits, time_limits
from megabiomed.config.topology import check_run
from megabiomed.data.loader import StepBatch
from megabiomed.data.progress import DataProgress
from megabiomed.data.quarantine import Quarantine
from megabiomed.doctor.certify_import import certify_import
from megabiomed.engine.mesh import Mesh, build_mesh
from megabiomed.evaluate.in_training import training_evaluation
from megabiomed.model.start_from import check_architecture
from megabiomed.processes import messages, platform
from megabiomed.processes.hang import HangGuard
from megabiomed.processes.phases import START
from megabiomed.processes.signals import Request, StopFlag
from megabiomed.runs.changes import changed_quarantine, changed_settings
from megabiomed.runs.checkpointing import (
    ResumePoint,
    describe,
    find_resume_point,
    inherited,
    load,
    no_earlier_run,
    resumed_progress,
    take_over,
)
from megabiomed.runs.effective import keep
from megabiomed.runs.estimate import estimate
from megabiomed.runs.health import RunHealth
from megabiomed.runs.hooks import standard_hooks
from megabiomed.runs.hooks.reports import note_ending
from megabiomed.runs.metrics import Reporter
from megabiomed.runs.module import Run, TrainModule
from megabiomed.runs.rewind import rewind, target
from megabiomed.runs.saves import Checkpoints
from megabiomed.runs.schedule import learning_rate_at, total_steps
from megabiomed.runs.training import Ending, LeaveAsked, Position, RewindAsked, Step, Training
from megabiomed.runs.unsaved import Trouble


class Trainer:
    """One rank of a training run. torch.distributed must be initialised; all ranks construct and run it together.

    Args:
        run: what is trained on what.
        stop: requests to save or to leave.
    """

    def __init__(self, run: Run, stop: StopFlag) -> None:
        self.run = run
        self.config = run.config
        self.stop = stop
        START.ended("imports")
        self.limits = time_limits(run.config.train)
        self.mesh = _checked_mesh(run.config)
        platform.limit_collectives(self.limits.start_collective_s)
        START.ended("groups")
        rank, world = self.mesh.rank, self.mesh.world
        # Data first: what is wrong with them shows before minutes of building.
        self.data = run.open_data(self.mesh)
        self.loader = self.data.loader
        self.loader.quarantine = self._quarantine()
        evaluation = training_evaluation(run.config, self.mesh, self.data.tokenizer)
        self.hooks = standard_hooks(evaluation)
        self.total = total_steps(run.config, self.loader.samples_per_epoch)
        papers = self.loader.quarantine.papers
        self.position = Position(DataProgress(identity=self.loader.identity, quarantined=papers))
        self.changes: list[str] = []
        self.reporter = Reporter(run.config, rank == 0, world, self.total)
        if rank == 0:
            # Events before the ranks' own claim carry the number of the batch script's, where there is one.
            self.reporter.hold(inherited(run.config))
            for each in run.configs:  # requests are for a part of a run, or for the run, whatever its part
                stop.watch(each.folder)
        self.guard = _hang_guard(run.config, self.mesh, self.limits)
        START.ended("data")
        self._say(
            estimate(run.config, world, self.total, self.loader.samples_per_epoch)
        )  # where kernels check themselves
        START.ended("kernels")
        self._say(evaluation.lines if evaluation else [])
        self._start = self._find_start()

    def train(self) -> str:
        """Train to the end or to a stop request.

        Returns:
            "finished"; "stopped" after a signal or `train.stop_after`; "ended" by the kill switch. The state is saved.
        """
        if self.position.step >= self.total:
            # Also for a start that was killed between its last commit and this event.
            self._say([f"finished already: step {self.position.step} of {self.total}"])
            note_ending(self.reporter, "finished", self.position)
            self.guard.close()
            return "finished"
        try:
            return self._train(self._set_up())
        except Exception as error:
            # In the events as well, where a scheduler finds the reason after the process has gone.
            self.reporter.event("failed", step=self.position.step, error=str(error))
            self.reporter.finish("FAILED")
            raise

    def _train(self, training: Training) -> str:
        """The loop."""
        try:
            outcome = self._steps(training)
        except LeaveAsked as request:
            outcome = request.ending
        ending = Ending(outcome, self.stop.received)
        # Everybody makes things safe before anybody measures: a kill during a measurement then loses nothing.
        for hook in self.hooks:
            hook.on_leave(training)
        for hook in self.hooks:
            hook.at_end(training, ending)
        training.module.engine.end()
        return ending.outcome

    def _steps(self, training: Training) -> str:
        """All steps of this start; says how they ended."""
        first = training.step
        for hook in self.hooks:
            hook.at_start(training)
        # Ends the thread that reads ahead, after an exception too.
        with closing(self.loader), training.times.measuring(bool(self.config.health.slow_share)):
            while training.step < self.total:
                try:
                    return self._steps_ahead(training, first)
                except RewindAsked as asked:
                    self._rewind(training, asked.step)
        return "finished"

    def _steps_ahead(self, training: Training, first: int) -> str:
        """All steps from here on, in a start that began at step `first`; says how they ended."""
        for batch in training.times.reading(self.loader):
            self._train_one(training, batch)
            # Agreed after every step: a rank that left alone would leave the others in a collective for ever.
            asked, trouble = self.stop.agreed_with(training.checkpoints.trouble(training.step))
            training.checkpoints.react(Trouble(trouble))
            # A run that is complete is finished, even when a stop request came during its last step.
            if training.step >= self.total:
                break
            if asked >= Request.STOP or training.step - first == self.config.train.stop_after:
                return "ended" if asked == Request.END else "stopped"
            for hook in self.hooks:
                hook.between_steps(training, asked)
        return "finished"

    def _rewind(self, training: Training, refused: Step) -> None:
        """Go back to the newest checkpoint, and on with the samples behind the refused step."""
        found = target(training, refused, self._start.checkpoint)
        position, _ = self._position_of(found)
        rewind(training, refused, found, position, self.loader)
        self.position = position
        self._say(self._length())
        training.total = self.total

    def _train_one(self, training: Training, batch: StepBatch) -> None:
        """One step, and what hooks think of it."""
        config, done = self.config, training.step
        for hook in self.hooks:
            hook.before_step(training, batch)
        sample = training.position.progress.next_sample
        lr = learning_rate_at(config, self.loader.samples_per_epoch, done, sample)
        # Whatever draws random numbers in a step draws the same ones after a resume, on any topology.
        platform.seed_all(config.seed, done, self.mesh.replica or 0)
        with training.times.step():
            result = training.module.train_step(batch, lr)
        step = Step(done + 1, batch, lr, result)
        for hook in self.hooks:
            hook.check_step(training, step)
        tokens = config.data.global_batch_size * config.data.seq_length
        training.position.advance(batch, tokens, step.result.applied)
        for hook in self.hooks:
            hook.after_step(training, step)

    def _find_start(self) -> ResumePoint:
        """The checkpoint to continue from, checked against this configuration before anything is built."""
        config, point = self.config, find_resume_point(self.config)
        lines = describe(point)
        if point.checkpoint is not None:
            check_architecture(point.checkpoint, config.model)
            self.position, verdict = self._position_of(point.checkpoint)
            self.loader.first_sample = self.position.progress.next_sample
            self.changes = changed_settings(point.checkpoint, config)
            self.changes += changed_quarantine(point.checkpoint, self.loader.quarantine)
            lines += [*verdict, *(f"changed: {line}" for line in self.changes)]
        elif config.train.first_step:
            raise no_earlier_run(config)
        self._say([*lines, *self._length()])
        return point

    def _position_of(self, checkpoint: Checkpoint) -> tuple[Position, list[str]]:
        """Where a run that goes on from a checkpoint is, and the verdict on its data order."""
        progress, verdict = resumed_progress(checkpoint, self.loader.identity, self.config, self.data.tokenizer)
        state = checkpoint.trainer
        health = RunHealth.of(state.health)
        if not progress.next_sample:  # other data, whose losses say nothing of these
            health = RunHealth(health.skipped_steps)
        progress = replace(progress, quarantined=self.loader.quarantine.papers)
        return Position(progress, checkpoint.step, state.tokens_consumed, health), verdict

    def _quarantine(self) -> Quarantine:
        """Documents that are masked out of the loss from this start on, on every rank the same. Collective."""
        folder, documents = self.config.folder, self.loader.documents
        return Quarantine.from_json(messages.from_first(lambda: Quarantine.of(folder, documents).to_json()))

    def _length(self) -> list[str]:
        """Count the steps of the run anew from the samples that are left; a line where that changes their number."""
        samples, sample = self.loader.samples_per_epoch, self.position.progress.next_sample
        before, self.total = self.total, total_steps(self.config, samples, self.position.step, sample)
        self.reporter.total = self.total
        left = max(0, self.total - self.position.step) * self.config.data.global_batch_size
        return [f"length now: {self.total} steps in all, {left} samples are left"] if self.total != before else []

    def _set_up(self) -> Training:
        """Build what is trained and fill it from the checkpoint or with initial weights."""
        fence, changed = take_over(self.config, self._start)
        # An earlier start committed between the choice and the claim: its checkpoint is newer.
        if changed:
            self._start = self._find_start()
        # Before trackers open: a start that has lost the run writes nothing into its curves.
        self.reporter.hold(fence)
        if fence is not None:
            # Requests in the folder are for the start that holds it.
            self.stop.requests_are_mine = lambda: not fence.taken_over()
        differs = self.reporter.track()
        self.changes += differs
        self._say([f"changed: {line}" for line in differs])
        if self.reporter.active:
            for config in self.run.configs:
                keep(config)
        began = time.monotonic()
        self._say(
            [*self.data.notes, *self.loader.quarantine.note(), *(f"warning: {line}" for line in self.data.warnings)]
        )
        for line in self.data.warnings:
            self.reporter.event("warning", what=line)
        START.ended("checkpoint")
        module = self.run.build(self.mesh, self._start.checkpoint)
        platform.limit_collectives(self.limits.start_collective_s)  # of the engine's own groups
        START.ended("model")
        self._fill(module)
        START.ended("weights")
        checkpoints = Checkpoints(self.config, module.engine, self.data.tokenizer, fence, self.position.step)
        checkpoints.check_space()
        self._say([f"setup: {time.monotonic() - began:.1f} s"])
        self._tell_beginning()
        return Training(
            self.config, self.mesh, module, self.total, self.position, self.reporter, self.guard, checkpoints, self.loader,
            leave=lambda: self.stop.agreed(leaving=True),
        )  # fmt: skip

    def _tell_beginning(self) -> None:
        """The event that a start begins with."""
        position = self.position
        kind, sample = "resume" if position.step else "start", position.progress.next_sample
        quarantined = self.loader.quarantine.papers
        more = {"changed": self.changes, "left_out": self.data.left_out, "quarantined": quarantined}
        told: dict[str, object] = {name: values for name, values in more.items() if values}
        told["global_batch_size"] = self.config.data.global_batch_size  # without it, steps do not tell their samples
        self.reporter.event(kind, step=position.step, sample=sample, total_steps=self.total, **told)

    def _fill(self, module: TrainModule) -> None:
        """Weights from the checkpoint, or those of a run that begins."""
        if self._start.checkpoint is not None:
            self._say([load(module.engine, self._start.checkpoint, self.position.step)])
            return
        module.load_initial()
        if module.begins_with_folder and self.config.checkpoint.certify_import:
            self._say(certify_import(module.engine, self.config, self.data.tokenizer).lines())

    def _say(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.reporter.say(line)


def _checked_mesh(config: RunConfig) -> Mesh:
    """The mesh of a configuration that can run on this many processes."""
    check_run(config, dist.get_world_size())
    return build_mesh(config.parallel, config.extra_ranks)


def _hang_guard(config: RunConfig, mesh: Mesh, limits: TimeLimits) -> HangGuard:
    """Watches this rank from now on."""
    place = f"{config.name}, rank {mesh.rank} of {mesh.place()}"
    return HangGuard(config.folder / "logs", mesh.rank, place, limits.guard_s, limits.start_guard_s)
