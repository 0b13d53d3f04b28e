"""Pretraining before its start."""

from __future__ import annotations

from pathlib import Path

from megabiomed.config import RunConfig


def check(config: RunConfig, world: int) -> None:
    """There are stores to train on; the model to begin or go on with is the configured one, with a row for every piece."""
    from megabiomed.data.loader import require_stores
    from megabiomed.runs.preview.beginning import check_beginning

    require_stores(config.data)
    check_beginning(config, None, _tokenizer(config))


def describe(config: RunConfig, world: int) -> list[str]:
    """The estimate; the length is exact where the token stores exist."""
    from megabiomed.data.loader import open_training_data
    from megabiomed.runs.estimate import estimate
    from megabiomed.runs.preview.beginning import beginning
    from megabiomed.runs.schedule import total_steps

    known = _has_data(config)
    loader = open_training_data(config.data, config.seed) if known else None
    samples = loader.samples_per_epoch if loader else None
    unknown = samples is None and config.train.steps is None
    lines = ["length: unknown until the token stores of data.train exist (train.epochs is given)"] if unknown else []
    total = None if unknown else total_steps(config, samples or 0)
    absent = [f"data: {path}, not there yet" for path in _stores(config) if not path.is_dir()]
    lines += loader.notes() if loader else []
    return [*lines, *estimate(config, world, total, samples), beginning(config, None), *absent, *config.eval.absent()]


def _has_data(config: RunConfig) -> bool:
    return bool(config.data.train) and all(source.path.is_dir() for source in config.data.train)


def _stores(config: RunConfig) -> list[Path]:
    return [*(source.path for source in config.data.train), *filter(None, [config.data.validation])]


def _tokenizer(config: RunConfig) -> Path | None:
    """That of the run, as far as it is there; refuses stores that another one made."""
    from megabiomed.data.store import TokenStore
    from megabiomed.tokenizer.check import check_tokenizer

    if not _has_data(config):
        return config.data.tokenizer
    stores = [TokenStore.open(path) for path in _stores(config) if path.is_dir()]
    return check_tokenizer(stores, config.model.vocab_size, config.data.tokenizer).path
