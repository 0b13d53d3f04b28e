"""One stage as a training run: the trainer of pretraining with another loader and another engine."""

from __future__ import annotations

from typing import cast

from megabiomed.align.engine import AlignEngine
from megabiomed.align.sources import frozen_reference, stage_source
from megabiomed.config import RunConfig
from megabiomed.config.align import AlignRunConfig
from megabiomed.data.loader import StepBatch
from megabiomed.engine.build import StepResult, TrainEngine
from megabiomed.evaluate.in_training import TrainingEvaluation
from megabiomed.ground.errors import DataError
from megabiomed.ground.figures import shown
from megabiomed.model.frozen import check_frozen
from megabiomed.processes.signals import StopFlag
from megabiomed.runs.effective import keep
from megabiomed.runs.trainer import Trainer
from megabiomed.samples.multimodal.batch import AlignBatch
from megabiomed.samples.multimodal.loader import AlignLoader, AlignValidation
from megabiomed.samples.multimodal.store import QaStore
from megabiomed.tokenizer.check import check_tokenizer


class StageTrainer(Trainer):
    """One rank of one stage.

    Args:
        whole: the run; the stage's own configuration is made from it.
    """

    items: AlignLoader
    right_items: AlignValidation | None
    wrong_items: AlignValidation | None

    def __init__(self, whole: AlignRunConfig, number: int, stop: StopFlag) -> None:
        self.whole, self.number = whole, number
        self.align, self.stage = whole.align, whole.align.stages[number]
        super().__init__(cast(RunConfig, whole.stage_run(number)), stop)
        if self.mesh.rank == 0:
            stop.watch(whole.folder)  # requests are for a stage, or for the run, whatever its stage

    def _keep(self) -> None:
        keep(self.whole)
        super()._keep()

    def _open_data(self) -> None:
        config, align, mesh = self.config, self.align, self.mesh
        if not align.train:
            raise DataError("there is nothing to train on", got="align.train is empty", do="list dataset splits there")
        stores = [QaStore(source.path) for source in align.train]
        replica = mesh.replica
        loader = AlignLoader(
            stores, align, config.data, config.seed, self.stage.text_share, replica, mesh.size("replicas")
        )
        held_out = [QaStore(align.validation)] if align.validation else []
        texts = [loader.text] if loader.text is not None else []
        self.tokenizer = check_tokenizer([*stores, *held_out, *texts], config.model.vocab_size).path
        self.loader = self.items = loader
        samples = config.train.eval_samples
        self.validation = self.right_items = self.wrong_items = None
        if held_out:
            self.right_items, self.wrong_items = (
                AlignValidation(
                    held_out[0], align, config.data, samples, config.seed, replica, mesh.size("replicas"), shift
                )
                for shift in (0, 1)
            )

    def validate(self) -> float | None:
        """Validation loss, and beside it the loss when every question has another one's molecule or protein."""
        loss = super().validate()
        if loss is not None and self.wrong_items is not None:
            total, tokens = cast(AlignEngine, self.engine).evaluate_items(self.wrong_items.batch())
            wrong = total / max(1, tokens)
            self.reporter.say(f"validation_loss_wrong_items: {shown(wrong, '.4f')} gap: {shown(wrong - loss, '+.4f')}")
        return loss

    def _held_out_loss(self) -> tuple[float, int] | None:
        if self.right_items is None:
            return None
        return cast(AlignEngine, self.engine).evaluate_items(self.right_items.batch())

    def _evaluated(self, evaluation: TrainingEvaluation) -> dict[str, float]:
        """Text alone, which is nothing for dedicated encoder ranks: they wait, and their guards see that it goes on."""
        engine, found = cast(AlignEngine, self.engine), dict[str, float]()

        def goes_on(more: bool) -> bool:
            self.guard.beat("evaluation", self.step)
            return engine.language_model_goes_on(more)

        def tick() -> None:
            goes_on(True)

        if self.mesh.in_model:
            found = evaluation.run(engine, tick)
        while goes_on(False):
            pass
        return found

    def _build(self) -> TrainEngine:
        for store, windows in zip(self.items.stores, self.items.windows):
            self.reporter.say(
                f"data: {store.path}: {len(windows.order):,} questions in {len(windows):,} windows, "
                f"{windows.too_long} longer than a window left out"
            )
        engine = AlignEngine(self.config, self.mesh, self.align, self.stage)
        engine.base = stage_source(self.whole, self.number)
        engine.template = str(self.items.stores[0].manifest["settings"]["template"])
        engine.frozen = {"language_model": frozen_reference(self.whole)}
        engine.frozen |= {str(name): value for name, value in engine.encoders.initial.items()}
        if self._start.checkpoint is not None:
            check_frozen(self._start.checkpoint.trainer.frozen, engine.frozen, self._start.checkpoint.path)
        names = [*(part.name for part in self.align.parts()), "language_model"]
        modes = {name: getattr(self.stage, name) for name in names}
        trained = "".join(f", {name} ({mode})" for name, mode in modes.items() if mode != "frozen")
        self.reporter.say(f"stage: {self.stage.name}, trains adaptors{trained}")
        return engine

    @property
    def begins_with_folder(self) -> bool:
        """Not of later stages, whose language model an earlier one may have trained."""
        return super().begins_with_folder and self.number == 0 and self.align.language_model is None

    def _load_initial(self) -> None:
        engine = cast(AlignEngine, self.engine)
        assert engine.base is not None
        engine.load_weights(engine.base)

    def _compute(self, batch: StepBatch, lr: float) -> StepResult:
        engine = cast(AlignEngine, self.engine)
        return engine.align_step(cast(AlignBatch, batch), lr / self.config.optimizer.lr)


def train(config: AlignRunConfig, part: str | None, stop: StopFlag) -> str:
    """Train all stages in order, or one, on this rank; says how the last of them ended."""
    outcome = "finished"
    for number, stage in enumerate(config.align.stages):
        if part in (None, stage.name) and outcome == "finished":
            outcome = StageTrainer(config, number, stop).run()
    return outcome
