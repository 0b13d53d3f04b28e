"""`megabiomed evaluate`: check what is asked, then join the ranks, or start them here."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from megabiomed.align.text_scores import text_scorer
from megabiomed.checkpoint.locate import locate
from megabiomed.checkpoint.uses import MODEL
from megabiomed.evaluate.settings import EvaluateSettings
from megabiomed.ground.errors import ConfigError, UserError
from megabiomed.ground.files import read_json, write_json
from megabiomed.processes.local import run_workers, under_launcher

if TYPE_CHECKING:
    from megabiomed.config import RunConfig
    from megabiomed.evaluate.model import Model


def evaluate(settings: EvaluateSettings, nproc: int | None, dry_run: bool) -> None:
    """Start an evaluation, join one, or (dry run) only say what would be done."""
    if not settings.tasks and not settings.perplexity:
        raise ConfigError("there is nothing to evaluate", do="give --task NAME=FILE or --perplexity NAME=STORE")
    locate(settings.model).expect(MODEL)
    text_scorer(settings.score_tokenizer)  # refused here and not after hours
    if dry_run:
        for line in describe(settings, nproc or _world(settings)):
            print(line)
        return
    from megabiomed.evaluate import worker
    from megabiomed.processes import platform

    if under_launcher():
        platform.leave(worker.run(settings))
    world = nproc or _world(settings)
    _open(settings, world)
    if world == 1:
        platform.init_alone()
        platform.leave(worker.run(settings))
    if _run_here(settings, world) == "stopped":
        raise SystemExit(worker.STOPPED)


def _run_here(settings: EvaluateSettings, world: int) -> str:
    """Start the ranks on this machine; "finished" or "stopped", as rank 0 says. Logs stay where a worker died."""
    folder = Path(tempfile.mkdtemp(prefix="megabiomed-evaluate-"))
    file, told = folder / "settings.json", folder / "outcome.json"
    write_json(file, settings.model_dump(mode="json"))
    try:
        run_workers("megabiomed.evaluate.worker", [str(file), str(told)], world, folder)
        outcome = str(read_json(told)["outcome"])
    except UserError:  # its message is all there is to say
        shutil.rmtree(folder)
        raise
    shutil.rmtree(folder)
    return outcome


def _world(settings: EvaluateSettings) -> int:
    from megabiomed.processes import platform

    model_ranks = settings.tensor_parallel_size * settings.pipeline_parallel_size
    return model_ranks * max(1, platform.device_count() // model_ranks)


def _open(settings: EvaluateSettings, world: int) -> tuple[Model, RunConfig]:
    """The model, unread, and how it is cut over so many processes; a topology that cannot be is refused."""
    from megabiomed.config.topology import check_run
    from megabiomed.evaluate.model import open_model, scoring_config
    from megabiomed.evaluate.runner import parallel_of

    model = open_model(settings.model, settings.base)
    config = scoring_config(model, parallel_of(settings), world, settings.precision, settings.window)
    check_run(config, world)
    return model, config


def describe(settings: EvaluateSettings, world: int) -> list[str]:
    """What would be asked, of what, and what it costs; a topology that cannot be is refused."""
    from megabiomed.evaluate.packing import pack
    from megabiomed.evaluate.runner import build_tasks, identity, open_domain, output_folder
    from megabiomed.evaluate.table import remarks

    model, config = _open(settings, world)
    tasks = build_tasks(settings, model)
    lines = [f"model: {model.path}", f"results: {output_folder(settings, model, identity(settings, model, tasks))}"]
    for task in tasks:
        header = task.header()
        lines.append(f"{task.name}: {header['items']} items of {task.path}, template {task.template}, {task.mode}, "
                     f"{task.shots} shots")  # fmt: skip
        if task.mode == "choice":
            requests = [request for item in task.items for request in item.requests()]
            plain = sum(len(r.prompt) + len(r.continuation) - 1 for r in requests)
            computed = sum(batch.micro.tokens.numel() for batch in pack(requests, settings.window))
            lines.append(f"  {len(requests):,} continuations, {plain:,} tokens, of which {computed:,} are computed")
        lines += [f"  {line}" for line in remarks(header)]
        first = task.items[0]
        lines += ["  first prompt:", *(f"  | {line}" for line in first.encoded.text.splitlines())]
        lines.append(f"  answer: {first.prompt.answer!r}")
    for name, path in settings.perplexity.items():
        store, loader = open_domain(path, settings, model, config.data)
        lines.append(f"perplexity of {name}: {loader.samples} windows of {loader.seq_length} tokens, of {store.num_tokens:,} "
                     f"tokens in {path}")  # fmt: skip
    return lines
