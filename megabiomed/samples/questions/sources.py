"""What a fine-tuning run reads: stores of questions, made of files where needed, and the tokenizer of its model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from megabiomed.checkpoint.catalog import latest_valid
from megabiomed.checkpoint.locate import locate
from megabiomed.checkpoint.uses import MODEL
from megabiomed.config.finetune import FinetuneRunConfig, QuestionSource
from megabiomed.data.store import TokenStore
from megabiomed.ground.errors import ConfigError, DataError, TokenizerError
from megabiomed.ground.files import read_json, sha256_file, write_json
from megabiomed.processes import messages
from megabiomed.samples.questions.overlap import NGRAM, SHARE, find_repeated
from megabiomed.samples.questions.readers import GROUND_TRUTH
from megabiomed.samples.questions.store import BuildSettings, QuestionStore, build_store
from megabiomed.samples.questions.templates import TEMPLATES
from megabiomed.samples.store import MANIFEST
from megabiomed.tokenizer.check import check_tokenizer
from megabiomed.tokenizer.files import open_tokenizer


def opened(config: FinetuneRunConfig) -> tuple[list[QuestionStore], QuestionStore | None, list[str]]:
    """Stores of training and validation questions, and what a user should know about the latter. Collective.

    Files are tokenized once, by rank 0, into the run folder.
    """

    def prepared() -> list[Any]:
        train, validation, warnings = _prepare(config)
        return [[str(path) for path in train], validation and str(validation), warnings]

    train, validation, warnings = messages.from_first(prepared)
    stores = [QuestionStore(Path(path)) for path in train]
    return stores, QuestionStore(Path(validation)) if validation else None, warnings


def _prepare(config: FinetuneRunConfig) -> tuple[list[Path], Path | None, list[str]]:
    validation = config.finetune.validation
    check_sources(config)
    train = [_store_of(source, config) for source in config.finetune.train]
    if validation is None:
        return train, None, []
    held_out = QuestionStore(_store_of(validation, config))
    for path in train:
        _refuse_shared(QuestionStore(path), held_out)
    return train, held_out.path, _near_copies([QuestionStore(path) for path in train], held_out, config)


def check_sources(config: FinetuneRunConfig) -> None:
    """Every source of questions is there, as a file or as a store whose keys were given when it was built.

    Raises:
        DataError: a path with nothing at it, or with a folder that is no store.
        ConfigError: a store beside keys that only a file can obey, or an unknown template.
    """
    held_out = config.finetune.validation
    for source in [*config.finetune.train, *([held_out] if held_out else [])]:
        if not source.path.exists():
            raise DataError(
                f"{source.path} is not there",
                do="give a file of questions, or a store made by `megabiomed questions build`",
            )
        if source.path.is_dir():
            QuestionStore(source.path)
        if source.template is not None and source.template not in TEMPLATES:
            raise ConfigError("there is no such template", got=source.template, expected=", ".join(TEMPLATES))
        given = {key: getattr(source, key) for key in ("template", "split", "limit", "chat")}
        changed = {key: value for key, value in given.items() if value != type(source).model_fields[key].default}
        if source.path.is_dir() and changed:
            raise ConfigError(
                f"{source.path} is a store, whose questions were chosen when it was built",
                got=", ".join(f"{key}: {value}" for key, value in changed.items()),
                do=f"leave {', '.join(changed)} out, or give it to `megabiomed questions build`",
            )


def _refuse_shared(train: QuestionStore, held_out: QuestionStore) -> None:
    """No held-out question is trained on. Ids name a question within one file; across files its tokens are asked too."""
    one_file = not set(train.manifest["files"].values()).isdisjoint(held_out.manifest["files"].values())
    places = {name: place for place, name in enumerate(train.idents.to_pylist())}
    shared = [
        name
        for place, name in enumerate(held_out.idents.to_pylist())
        if name in places and (one_file or held_out.prompt(place) == train.prompt(places[name]))
    ]
    if shared:
        raise DataError(
            f"finetune.validation holds training questions of {train.path}",
            got=f"{len(shared)} of {len(held_out)}, e.g. {shared[0]}", expected="held-out questions",
            do="give another file, or the other split of a PubMedQA file (split: test)",
        )  # fmt: skip


def _near_copies(train: Sequence[QuestionStore], held_out: QuestionStore, config: FinetuneRunConfig) -> list[str]:
    """Held-out questions that a training question nearly is: looked for once, listed in the run folder."""
    prints = [held_out.fingerprint, *(store.fingerprint for store in train)]
    # Named by all that decides the result, so that the next start only reads it.
    key = hashlib.sha256(json.dumps([NGRAM, SHARE, prints]).encode()).hexdigest()[:12]
    file = config.folder / "questions" / f"near_copies-{key}.json"
    if not file.is_file():
        found = find_repeated(list(held_out.prompts()), chain.from_iterable(store.prompts() for store in train))
        names = list(chain.from_iterable(store.idents.to_pylist() for store in train))
        mine = held_out.idents.to_pylist()
        copies = [[mine[n], names[place], round(share, 3)] for n, (place, share) in sorted(found.found.items())]
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"ngram_words": NGRAM, "share": SHARE, "searched": found.searched, "copies": copies})
    copies = read_json(file)["copies"]
    return [
        f"{len(copies)} of {len(held_out)} questions of finetune.validation are nearly training questions, e.g. "
        f"{copies[0][0]} and {copies[0][1]}; all of them in {file}"
    ] if copies else []  # fmt: skip


def stores_of(config: FinetuneRunConfig, run: Path) -> Iterator[Path]:
    """Folders of a run's training questions, as `build_store` made them; of a source without one, its path.

    Args:
        run: folder of the run, wherever it is by now.
    """
    made = {file.parent: read_json(file) for file in sorted((run / "questions").glob(f"*/{MANIFEST}"))}
    for source in config.finetune.train:
        settings = _settings(source, config).stored()
        held = [
            folder for folder, manifest in made.items()
            if str(source.path) in manifest["files"] and manifest["settings"] == settings
        ]  # fmt: skip
        yield from held or [source.path]


def _settings(source: QuestionSource, config: FinetuneRunConfig) -> BuildSettings:
    return BuildSettings(config.data.seq_length, source.template, source.split, source.limit, source.chat)


def _store_of(source: QuestionSource, config: FinetuneRunConfig) -> Path:
    """The store of a source; a file's is made in the run folder, under a name that says what went into it."""
    if source.path.is_dir():
        return source.path
    tokenizer = open_tokenizer(tokenizer_of(config))
    settings = _settings(source, config)
    # The ground truth decides the split, so it is an input as well.
    inputs = [file for file in (source.path, source.path.with_name(GROUND_TRUTH)) if file.is_file()]
    key = json.dumps([settings.stored(), tokenizer.sha256, *map(sha256_file, inputs)])
    folder = config.folder / "questions" / f"{source.path.stem}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    if not (folder / MANIFEST).is_file():
        build_store([source.path], folder, tokenizer, settings)
    return folder


def tokenizer_of(config: FinetuneRunConfig) -> Path:
    """The tokenizer of the run, as `_known_tokenizer`.

    Raises:
        TokenizerError: there is none.
    """
    found = _known_tokenizer(config)
    if found is None:
        start = config.finetune.start_from or config.model.init_from
        raise TokenizerError(
            "the model to start from has no tokenizer with it", got=start or "no finetune.start_from",
            do="set data.tokenizer to the tokenizer of the model",
        )  # fmt: skip
    return found


def _known_tokenizer(config: FinetuneRunConfig) -> Path | None:
    """data.tokenizer, or that of the run's own newest checkpoint, or that of the model which the run starts from."""
    if config.data.tokenizer is not None:
        return config.data.tokenizer
    # A run that goes on has its weights: the model that it once started from may be gone.
    own, _ = latest_valid(config.folder / "checkpoints")
    found = own.tokenizer if own else None
    start = config.finetune.start_from or config.model.init_from
    return found or (locate(start).expect(MODEL).tokenizer if start else None)


def check_tokenizers(config: FinetuneRunConfig, stores: list[QuestionStore | TokenStore]) -> Path:
    """The tokenizer of the run, if all its data and its model belong to it (`TokenizerError` otherwise)."""
    check_tokenizer(stores, config.model.vocab_size, _known_tokenizer(config))
    return stores[0].tokenizer_path  # the same bytes, in a place that no pruning of checkpoints takes away
