"""Continued pretraining of a language model on text."""

from __future__ import annotations

from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.config import RunConfig
from megabiomed.data.loader import open_training_data, open_validation_data
from megabiomed.data.store import TokenStore
from megabiomed.data.windows import left_out
from megabiomed.engine.mesh import Mesh
from megabiomed.model.start_from import notes_on_tying
from megabiomed.model.vocabulary import notes_on_tokenizer
from megabiomed.processes.signals import StopFlag
from megabiomed.runs.language_model import LanguageModel
from megabiomed.runs.module import Run, RunData
from megabiomed.runs.trainer import Trainer
from megabiomed.tokenizer.check import check_tokenizer


def train(config: RunConfig, part: str | None, stop: StopFlag) -> str:
    """Pretrain on this rank; says how it ended."""
    return Trainer(run_of(config, part), stop).train()


def run_of(config: RunConfig, part: str | None) -> PretrainRun:
    """What is trained on what; there are no parts."""
    return PretrainRun(config)


class PretrainRun(Run):
    """Windows of token stores, and a language model that starts from `model.init_from` or from random weights."""

    def open_data(self, mesh: Mesh) -> RunData:
        """See the base class."""
        config = self.config
        replica, replicas = mesh.coordinate("replicas"), mesh.size("replicas")
        loader = open_training_data(config.data, config.seed, replica, replicas)
        held_out = open_validation_data(config.data, config.train.eval_samples, replica, replicas)
        stores = [TokenStore.open(config.data.validation)] if config.data.validation else []
        # The loader compared the training stores with each other.
        tokenizer = check_tokenizer([loader.stores[0], *stores], config.model.vocab_size, config.data.tokenizer)
        more = config.model.vocab_size - tokenizer.vocab_size
        notes = [*loader.notes(), *([held_out.note()] if held_out else [])]
        notes += (
            [f"vocabulary: {tokenizer.vocab_size} pieces; {more} more rows, which are never a label"] if more else []
        )
        if config.model.init_from is not None:
            notes += [
                f"model.init_from: {note}"
                for note in notes_on_tokenizer(config.model.init_from, config.model.vocab_size)
            ]
        warnings = [] if config.lora else notes_on_tying(None, config.model)
        self._data = RunData(loader, tokenizer.path, held_out, notes, warnings, left_out(loader.stores, loader.texts))
        return self._data

    def build(self, mesh: Mesh, resumed: Checkpoint | None) -> LanguageModel:
        """See the base class."""
        return LanguageModel(self.config, mesh, self._data, None, resumed)
