"""Fine-tuning as a training run: the trainer of pretraining on questions, from the model of an earlier run."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from megabiomed.config.finetune import FinetuneRunConfig
from megabiomed.data.store import TokenStore
from megabiomed.engine.build import TrainEngine
from megabiomed.processes.signals import StopFlag
from megabiomed.runs.trainer import Trainer
from megabiomed.samples.questions.loader import FinetuneLoader, QuestionValidation
from megabiomed.samples.questions.sources import check_tokenizers, opened


def train(config: FinetuneRunConfig, part: str | None, stop: StopFlag) -> str:
    """Fine-tune on this rank; says how it ended."""
    return FinetuneTrainer(config, stop).run()


class FinetuneTrainer(Trainer):
    """One rank of a fine-tuning run."""

    config: FinetuneRunConfig

    def __init__(self, config: FinetuneRunConfig, stop: StopFlag) -> None:
        super().__init__(config, stop)

    @property
    def starts_from(self) -> Path | None:
        """See the base class."""
        return self.config.finetune.start_from

    def _open_data(self) -> None:
        config, mesh = self.config, self.mesh
        stores, held_out, self.warnings = opened(config)
        self.loader = FinetuneLoader(
            stores, config.finetune, config.data, config.seed, mesh.coordinate("replicas"), mesh.size("replicas")
        )
        replay = [TokenStore.open(source.path) for source in config.finetune.replay]
        self.tokenizer = check_tokenizers(config, [*stores, *([held_out] if held_out else []), *replay])
        samples = config.train.eval_samples
        self.validation = None
        if held_out is not None:
            self.validation = QuestionValidation(
                held_out, config.data, samples, config.seed, mesh.coordinate("replicas"), mesh.size("replicas")
            )

    def _build(self) -> TrainEngine:
        loader = cast(FinetuneLoader, self.loader)
        for store, windows in zip(loader.questions, loader.windows):
            self.reporter.say(f"data: {store.path}: {store.describe()}, in {len(windows):,} windows")
        for line in loader.order.describe():
            self.reporter.say(f"data: {line}")
        for line in self.warnings:
            self.reporter.say(f"warning: {line}")
            self.reporter.event("warning", what=line)
        return super()._build()
