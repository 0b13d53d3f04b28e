"""Pretraining before its start."""

from __future__ import annotations

from megabiomed.config import RunConfig


def check(config: RunConfig, world: int) -> None:
    """Adapters need frozen weights with a row for every piece of the tokenizer."""
    if config.lora is not None:
        from megabiomed.model.start_from import check_frozen_folder

        check_frozen_folder(None, config.model)


def describe(config: RunConfig, world: int) -> list[str]:
    """The estimate; the length is exact where the token stores exist."""
    from megabiomed.data.loader import open_training_data
    from megabiomed.runs.estimate import estimate
    from megabiomed.runs.schedule import total_steps

    known = all(source.path.is_dir() for source in config.data.train) and bool(config.data.train)
    samples = open_training_data(config.data, config.seed).samples_per_epoch if known else None
    unknown = samples is None and config.train.steps is None
    lines = ["length: unknown until the token stores of data.train exist (train.epochs is given)"] if unknown else []
    total = None if unknown else total_steps(config, samples or 0)
    return [*lines, *estimate(config, world, total, samples), *config.eval.absent()]
