"""Fine-tuning on questions, from the model of an earlier run."""

from __future__ import annotations

from collections.abc import Iterator

from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.config.finetune import FinetuneRunConfig
from megabiomed.data.loader import HeldOutLoader, text_notes
from megabiomed.data.store import TokenStore
from megabiomed.data.windows import left_out
from megabiomed.engine.mesh import Mesh
from megabiomed.model.start_from import notes_on_tying
from megabiomed.processes.signals import StopFlag
from megabiomed.runs.language_model import LanguageModel
from megabiomed.runs.module import Run, RunData
from megabiomed.runs.trainer import Trainer
from megabiomed.samples.questions.loader import FinetuneLoader, QuestionValidation
from megabiomed.samples.questions.sources import check_tokenizers, opened


def train(config: FinetuneRunConfig, part: str | None, stop: StopFlag) -> str:
    """Fine-tune on this rank; says how it ended."""
    return Trainer(run_of(config, part), stop).train()


def run_of(config: FinetuneRunConfig, part: str | None) -> FinetuneRun:
    """What is trained on what; there are no parts."""
    return FinetuneRun(config)


class FinetuneRun(Run):
    """Windows of questions and of replayed text, and the language model of `finetune.start_from`."""

    config: FinetuneRunConfig

    def open_data(self, mesh: Mesh) -> RunData:
        """See the base class."""
        config = self.config
        replica, replicas = mesh.coordinate("replicas"), mesh.size("replicas")
        stores, validation, warnings = opened(config)
        loader = FinetuneLoader(stores, config.finetune, config.data, config.seed, replica, replicas)
        replay = [TokenStore.open(source.path) for source in config.finetune.replay]
        tokenizer = check_tokenizers(config, [*stores, *([validation] if validation else []), *replay])
        held_out, samples = None, config.train.eval_samples
        if validation is not None:
            held_out = QuestionValidation(validation, config.data, samples, config.seed, replica, replicas)
        tying = [] if config.lora else notes_on_tying(config.finetune.start_from, config.model)
        notes, lost = list(_notes(loader, held_out)), left_out(loader.stores, loader.texts)
        self._data = RunData(loader, tokenizer, held_out, notes, [*warnings, *tying], lost)
        return self._data

    def build(self, mesh: Mesh, resumed: Checkpoint | None) -> LanguageModel:
        """See the base class."""
        return LanguageModel(self.config, mesh, self._data, self.config.finetune.start_from, resumed)


def _notes(loader: FinetuneLoader, held_out: HeldOutLoader | None) -> Iterator[str]:
    for store, windows in zip(loader.questions, loader.windows):
        yield f"data: {store.path}: {store.describe()}, in {len(windows):,} windows"
    yield from text_notes(loader.stores, loader.texts)
    if held_out is not None:
        yield held_out.note()
    for line in loader.order.describe():
        yield f"data: {line}"
