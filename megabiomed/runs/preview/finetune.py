"""A fine-tuning run before its start."""

from __future__ import annotations

from megabiomed.config.finetune import FinetuneRunConfig


def check(config: FinetuneRunConfig, world: int) -> None:
    """The questions exist, and what the run begins with is a model of its configuration."""
    from megabiomed.runs.preview.beginning import check_beginning
    from megabiomed.samples.questions.sources import check_sources

    check_sources(config)
    check_beginning(config, config.finetune.start_from, config.data.tokenizer)


def describe(config: FinetuneRunConfig, world: int) -> list[str]:
    """The estimate; the length is exact where the questions are there as stores."""
    from megabiomed.data.loader import text_notes
    from megabiomed.runs.estimate import estimate
    from megabiomed.runs.preview.beginning import beginning
    from megabiomed.runs.schedule import total_steps
    from megabiomed.samples.questions.loader import FinetuneLoader
    from megabiomed.samples.questions.store import QuestionStore

    sources = config.finetune.train
    samples, lines = None, []
    if all(source.path.is_dir() for source in sources):
        stores = [QuestionStore(source.path) for source in sources]
        loader = FinetuneLoader(stores, config.finetune, config.data, config.seed)
        samples = loader.samples_per_epoch
        lines = [f"data: {store.path}: {store.describe()}" for store in stores]
        lines += text_notes(loader.stores, loader.texts)
    elif config.train.steps is None:
        lines = [
            "length: unknown until the questions are stores (`megabiomed questions build`); the run itself tokenizes files"
        ]
    total = total_steps(config, samples or 0) if samples or config.train.steps else None
    absent = [f"replay: {source.path}, not there yet" for source in config.finetune.replay if not source.path.exists()]
    origin = beginning(config, config.finetune.start_from)
    return [*lines, *estimate(config, world, total, samples), origin, *absent, *config.eval.absent()]
