"""A fine-tuning run before its start."""

from __future__ import annotations

from megabiomed.config.finetune import FinetuneRunConfig


def check(config: FinetuneRunConfig, world: int) -> None:
    """The questions exist, and frozen weights have a row for every piece of the tokenizer."""
    from megabiomed.model.start_from import check_frozen_folder
    from megabiomed.samples.questions.sources import check_sources

    check_sources(config)
    if config.lora is not None:
        check_frozen_folder(config.finetune.start_from, config.model)


def describe(config: FinetuneRunConfig, world: int) -> list[str]:
    """The estimate; the length is exact where the questions are there as stores."""
    from megabiomed.runs.estimate import estimate
    from megabiomed.runs.schedule import total_steps
    from megabiomed.samples.questions.loader import FinetuneLoader
    from megabiomed.samples.questions.store import QuestionStore

    sources = config.finetune.train
    samples, lines = None, []
    if all(source.path.is_dir() for source in sources):
        stores = [QuestionStore(source.path) for source in sources]
        samples = FinetuneLoader(stores, config.finetune, config.data, config.seed).samples_per_epoch
        lines = [f"data: {store.path}: {store.describe()}" for store in stores]
    elif config.train.steps is None:
        lines = [
            "length: unknown until the questions are stores (`megabiomed qa build`); the run itself tokenizes files"
        ]
    total = total_steps(config, samples or 0) if samples or config.train.steps else None
    absent = [f"replay: {source.path}, not there yet" for source in config.finetune.replay if not source.path.exists()]
    origin = f"starts from: {_origin(config)}"
    return [*lines, *estimate(config, world, total, samples), origin, *absent, *config.eval.absent()]


def _origin(config: FinetuneRunConfig) -> str:
    start = config.finetune.start_from or config.model.init_from
    if start is None:
        return "random weights (set finetune.start_from)"
    return str(start) if start.exists() else f"{start}, not there yet"
