"""Fine-tuning as a training run: the trainer of pretraining on questions, from the model of an earlier run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, cast

import torch.distributed as dist

from megabiomed.checkpoint.files import sha256_file
from megabiomed.checkpoint.report import newest
from megabiomed.config.finetune import FinetuneRunConfig, QuestionSource
from megabiomed.corpus.tokenizer import Tokenizer
from megabiomed.data.store import TokenStore
from megabiomed.engine.build import TrainEngine
from megabiomed.errors import DataError, MegabiomedError, TokenizerError
from megabiomed.finetune.loader import FinetuneLoader, QuestionValidation
from megabiomed.finetune.store import MANIFEST, BuildSettings, QuestionStore, build_store
from megabiomed.train.loop import Trainer
from megabiomed.train.signals import StopFlag


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
        stores, held_out = opened(config)
        self.loader = FinetuneLoader(stores, config.finetune, config.data, config.seed, mesh.dp_rank, mesh.dp)
        replay = [TokenStore.open(source.path) for source in config.finetune.replay]
        self.tokenizer = check_tokenizers(config, [*stores, *([held_out] if held_out else []), *replay])
        samples = config.train.eval_samples
        self.validation = None
        if held_out is not None:
            self.validation = QuestionValidation(held_out, config.data, samples, config.seed, mesh.dp_rank, mesh.dp)

    def _build(self) -> TrainEngine:
        loader = cast(FinetuneLoader, self.loader)
        for store, windows in zip(loader.questions, loader.windows):
            self.reporter.say(f"data: {store.path}: {store.describe()}, in {len(windows):,} windows")
        for line in loader.order.describe():
            self.reporter.say(f"data: {line}")
        return super()._build()


def opened(config: FinetuneRunConfig) -> tuple[list[QuestionStore], QuestionStore | None]:
    """Stores of training and validation questions; files are tokenized once, by rank 0, into the run folder. Collective."""
    answer: list[Any] = [None]
    if not dist.is_initialized() or dist.get_rank() == 0:
        try:
            answer[0] = _prepare(config)
        except MegabiomedError as error:
            answer[0] = error
    if dist.is_initialized():
        dist.broadcast_object_list(answer, src=0)
    if isinstance(answer[0], MegabiomedError):
        raise answer[0]
    train, validation = answer[0]
    return [QuestionStore(path) for path in train], validation and QuestionStore(validation)


def _prepare(config: FinetuneRunConfig) -> tuple[list[Path], Path | None]:
    validation = config.finetune.validation
    train = [_store_of(source, config) for source in config.finetune.train]
    return train, _store_of(validation, config) if validation else None


def _store_of(source: QuestionSource, config: FinetuneRunConfig) -> Path:
    """The store of a source; a file's is made in the run folder, under a name that says what went into it."""
    if source.path.is_dir():
        return source.path
    if not source.path.is_file():
        raise DataError(
            f"{source.path} is not there", do="give a file of questions, or a store made by `megabiomed qa build`"
        )
    tokenizer = Tokenizer(tokenizer_of(config))
    settings = BuildSettings(config.data.seq_length, source.template, source.split, source.limit)
    key = json.dumps([vars(settings), tokenizer.sha256, sha256_file(source.path)])
    folder = config.folder / "questions" / f"{source.path.stem}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    if not (folder / MANIFEST).is_file():
        build_store([source.path], folder, tokenizer, settings)
    return folder


def tokenizer_of(config: FinetuneRunConfig) -> Path:
    """The tokenizer of the run: data.tokenizer, or that of the model it starts from.

    Raises:
        TokenizerError: there is none.
    """
    start = config.finetune.start_from or config.model.init_from
    found = config.data.tokenizer or _tokenizer_at(start)
    if found is None:
        raise TokenizerError(
            "the model to start from has no tokenizer.model beside it", got=start or "no finetune.start_from",
            do="set data.tokenizer to the SentencePiece tokenizer.model of the model",
        )  # fmt: skip
    return found


def _tokenizer_at(start: Path | None) -> Path | None:
    if start is None:
        return None
    beside = start / "tokenizer.model"
    if (start / "config.json").is_file():
        return beside if beside.is_file() else None
    return newest(start, hashes=False).tokenizer


def check_tokenizers(config: FinetuneRunConfig, stores: list[QuestionStore | TokenStore]) -> Path:
    """All data were made with one tokenizer, it is the model's, and every piece has a row in the model."""
    known = config.data.tokenizer or _tokenizer_at(config.finetune.start_from or config.model.init_from)
    tokenizer = Tokenizer(known or stores[0].tokenizer_path)
    for store in stores:
        if store.tokenizer_sha256 != tokenizer.sha256:
            raise TokenizerError(
                f"{store.path} was made with another tokenizer than {tokenizer.path}",
                got=store.tokenizer_sha256[:12], expected=tokenizer.sha256[:12],
                do="build it again with the tokenizer of the model that the run starts from",
            )  # fmt: skip
    if tokenizer.vocab_size != config.model.vocab_size:
        raise TokenizerError(
            "the tokenizer does not fit the model", got=f"{tokenizer.vocab_size} pieces in {tokenizer.path}",
            expected=f"model.vocab_size = {config.model.vocab_size}",
            do="use the tokenizer of the model that the run starts from",
        )  # fmt: skip
    return tokenizer.path
