"""A language model that learns from text or from answers: its engine, its first weights, its steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.config import RunConfig
from megabiomed.data.loader import StepBatch
from megabiomed.engine.build import StepResult, TrainEngine, build_engine
from megabiomed.engine.mesh import Mesh
from megabiomed.evaluate.in_training import TrainingEvaluation
from megabiomed.model.frozen import check_frozen, same_start
from megabiomed.model.merged import check_adapters
from megabiomed.model.start_from import adapter_chain, frozen_reference, model_base
from megabiomed.runs.module import RunData


class LanguageModel:
    """A `TrainModule` over a `TrainEngine`.

    Args:
        data: its tokenizer is that of the run: a model to start from with fewer pieces grows to it.
        starts_from: the model that the run begins with; None: that of `model.init_from`, or random weights.
        resumed: the checkpoint whose weights it will get.
    """

    def __init__(
        self, config: RunConfig, mesh: Mesh, data: RunData, starts_from: Path | None, resumed: Checkpoint | None
    ) -> None:
        self._config = config
        self._data = data
        self._starts_from = starts_from
        self.engine: TrainEngine = build_engine(config, mesh)
        if resumed is not None:
            check_adapters(resumed, config.lora)
        if config.lora is not None:
            self._refer_to_frozen(resumed)

    def _refer_to_frozen(self, resumed: Checkpoint | None) -> None:
        """Beside adapters the engine knows where the frozen weights come from, and that they are those of before."""
        config = self._config
        start = self._starts_from if resumed is None else same_start(resumed, self._starts_from)
        self.engine.base = adapter_chain(start, config.model, config.seed)
        self.engine.frozen = {"language_model": frozen_reference(start, config.model, config.seed, config.folder)}
        if resumed is not None:
            check_frozen(resumed.trainer.frozen, self.engine.frozen, resumed.path)

    @property
    def begins_with_folder(self) -> bool:
        """See `TrainModule`."""
        return self._config.model.init_from is not None and self._starts_from is None

    def load_initial(self) -> None:
        """See `TrainModule`."""
        source = self.engine.base
        if source is not None:
            self.engine.load_weights(source)
            return
        start, _ = model_base(self._starts_from, self._config.model, self._config.seed, self._data.tokenizer)
        self.engine.load_weights(start)

    def train_step(self, batch: StepBatch, lr: float) -> StepResult:
        """See `TrainModule`."""
        return self.engine.train_step(batch.micro_batches, lr)

    def held_out_losses(self, tick: Callable[[], None]) -> dict[str, tuple[float, int]]:
        """See `TrainModule`."""
        held_out = self._data.held_out
        return {} if held_out is None else {"validation_loss": self.engine.evaluate(held_out.micro_batches(), tick)}

    def evaluate(self, evaluation: TrainingEvaluation, tick: Callable[[], None]) -> dict[str, float]:
        """See `TrainModule`."""
        return evaluation.run(self.engine, tick)
