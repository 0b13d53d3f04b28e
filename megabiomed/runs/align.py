"""An alignment: a run for each of its stages, over language model, encoders and adaptors."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from megabiomed.align.engine import AlignEngine
from megabiomed.align.sources import frozen_reference, stage_source
from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.config.align import AlignRunConfig
from megabiomed.data.loader import StepBatch, text_notes
from megabiomed.data.windows import ContiguousWindows, left_out
from megabiomed.engine.build import StepResult
from megabiomed.engine.mesh import Mesh
from megabiomed.evaluate.in_training import TrainingEvaluation
from megabiomed.ground.errors import DataError
from megabiomed.model.frozen import check_frozen
from megabiomed.processes import platform
from megabiomed.processes.signals import StopFlag
from megabiomed.runs.module import Run, RunData
from megabiomed.runs.trainer import Trainer
from megabiomed.samples.multimodal.batch import AlignBatch
from megabiomed.samples.multimodal.loader import AlignLoader, AlignValidation
from megabiomed.samples.multimodal.store import QaStore
from megabiomed.tokenizer.check import check_tokenizer


def train(config: AlignRunConfig, part: str | None, stop: StopFlag) -> str:
    """Train all stages in order, or one, on this rank; says how the last of them ended."""
    outcome = "finished"
    for number, stage in enumerate(config.align.stages):
        # A stage starts from a finished one: after a stop request no other begins.
        if part in (None, stage.name) and outcome == "finished":
            outcome = Trainer(AlignStage(config, number), stop).train()
            platform.end_groups()
    return outcome


def run_of(config: AlignRunConfig, part: str | None) -> AlignStage:
    """What one stage trains on what."""
    assert part is not None
    return AlignStage(config, config.parts.index(part))


class AlignStage(Run):
    """Windows with molecules and proteins, and a model with encoders.

    Args:
        whole: the alignment; the stage's own configuration is made from it.
        number: of the stage, from 0.
    """

    def __init__(self, whole: AlignRunConfig, number: int) -> None:
        super().__init__(whole.stage_run(number), whole)
        self.alignment, self.number = whole, number
        self.align, self.stage = whole.align, whole.align.stages[number]

    def open_data(self, mesh: Mesh) -> RunData:
        """See the base class."""
        config, align = self.config, self.align
        if not align.train:
            raise DataError("there is nothing to train on", got="align.train is empty", do="list dataset splits there")
        stores = [QaStore(source.path) for source in align.train]
        replica, replicas = mesh.replica, mesh.size("replicas")
        loader = AlignLoader(stores, align, config.data, config.seed, self.stage.text_share, replica, replicas)
        held_out = [QaStore(align.validation)] if align.validation else []
        texts = [loader.text] if loader.text is not None else []
        tokenizer = check_tokenizer([*stores, *held_out, *texts], config.model.vocab_size).path
        samples = config.train.eval_samples
        self.template = str(stores[0].manifest["settings"]["template"])
        self.held_out = [
            AlignValidation(store, align, config.data, samples, config.seed, replica, replicas, shift)
            for store in held_out
            # shift 1 gives every question the items of another one; a model that reads its items must lose by it.
            for shift in (0, 1)
        ]
        texts_read = [ContiguousWindows(text, config.data.seq_length) for text in texts]
        lost = left_out(texts, texts_read) | {
            str(store.path): {"questions": windows.too_long}
            for store, windows in zip(stores, loader.windows) if windows.too_long
        }  # fmt: skip
        notes = [*self._notes(loader), *text_notes(texts, texts_read)]
        return RunData(loader, tokenizer, notes=notes, left_out=lost)

    def _notes(self, loader: AlignLoader) -> Iterator[str]:
        for store, windows in zip(loader.stores, loader.windows):
            yield (
                f"data: {store.path}: {len(windows.order):,} questions in {len(windows):,} windows, "
                f"{windows.too_long} longer than a window left out"
            )
        yield from (held_out.note() for held_out in self.held_out[:1])
        names = [*(part.name for part in self.align.parts()), "language_model"]
        modes = {name: getattr(self.stage, name) for name in names}
        trained = "".join(f", {name} ({mode})" for name, mode in modes.items() if mode != "frozen")
        yield f"stage: {self.stage.name}, trains adaptors{trained}"

    def build(self, mesh: Mesh, resumed: Checkpoint | None) -> MultimodalModel:
        """See the base class."""
        return MultimodalModel(self, mesh, resumed)


class MultimodalModel:
    """A `TrainModule` over an `AlignEngine`.

    Args:
        stage: whose data are open.
        resumed: the checkpoint whose weights it will get.
    """

    def __init__(self, stage: AlignStage, mesh: Mesh, resumed: Checkpoint | None) -> None:
        self._stage, self._in_model = stage, mesh.in_model
        self._start = stage_source(stage.alignment, stage.number)
        self.engine = AlignEngine(stage.config, mesh, stage.align, stage.stage)
        self.engine.base = self._start
        self.engine.template = stage.template
        self.engine.frozen = {"language_model": frozen_reference(stage.alignment)}
        self.engine.frozen |= {str(name): value for name, value in self.engine.encoders.initial.items()}
        # Trained parts on another frozen base would be another model.
        if resumed is not None:
            check_frozen(resumed.trainer.frozen, self.engine.frozen, resumed.path)

    @property
    def begins_with_folder(self) -> bool:
        """See `TrainModule`. Not of later stages, whose language model an earlier one may have trained."""
        stage = self._stage
        from_folder = stage.config.model.init_from is not None and stage.align.language_model is None
        return from_folder and stage.number == 0

    def load_initial(self) -> None:
        """See `TrainModule`."""
        self.engine.load_weights(self._start)

    def train_step(self, batch: StepBatch, lr: float) -> StepResult:
        """See `TrainModule`."""
        assert isinstance(batch, AlignBatch)
        # Every group of parameters has a peak of its own, so the engine takes the schedule's share of the peak.
        return self.engine.align_step(batch, lr / self._stage.config.optimizer.lr)

    def held_out_losses(self, tick: Callable[[], None]) -> dict[str, tuple[float, int]]:
        """See `TrainModule`: also the loss when every question has another one's molecule or protein."""
        names = ("validation_loss", "validation_loss_wrong_items")
        return {name: self.engine.evaluate_items(data.batch(), tick) for name, data in zip(names, self._stage.held_out)}

    def evaluate(self, evaluation: TrainingEvaluation, tick: Callable[[], None]) -> dict[str, float]:
        """See `TrainModule`. Text alone is nothing for dedicated encoder ranks: they wait, and tick while it goes on."""
        return self.engine.turns.while_others_wait(lambda tell: evaluation.run(self.engine, tell), tick) or {}
