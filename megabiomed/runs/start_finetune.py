"""`megabiomed finetune`: read and check the configuration, then join the ranks or start them here."""

from __future__ import annotations

from megabiomed.config.finetune import FinetuneRunConfig
from megabiomed.config.topology import check_run, default_world
from megabiomed.processes.local import under_launcher
from megabiomed.runs.start_pretrain import compact, start_here
from megabiomed.runs.worker_finetune import load, run


def finetune(path: str, overrides: list[str], nproc: int | None, dry_run: bool) -> None:
    """Start a run, join one, or (dry run) only say what would be done."""
    config = load(path, overrides)
    from megabiomed.processes import platform

    if under_launcher() and not dry_run:
        platform.leave(run(config))
    from megabiomed.model.origin import check_frozen_folder
    from megabiomed.samples.questions.sources import check_sources

    world = nproc or default_world(config.parallel, platform.device_count())
    check_run(config, world)
    check_sources(config)
    if config.lora is not None:
        check_frozen_folder(config.finetune.start_from, config.model)
    print(compact(config), flush=True)
    if dry_run:
        for line in describe(config, world):
            print(line)
        return
    start_here("megabiomed.runs.worker_finetune", config, world)


def describe(config: FinetuneRunConfig, world: int) -> list[str]:
    """The bill; the length is exact where the questions are there as stores."""
    from megabiomed.runs.bill import bill
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
    return [*lines, *bill(config, world, total, samples), origin, *absent, *config.eval.absent()]


def _origin(config: FinetuneRunConfig) -> str:
    start = config.finetune.start_from or config.model.init_from
    if start is None:
        return "random weights (set finetune.start_from)"
    return str(start) if start.exists() else f"{start}, not there yet"
