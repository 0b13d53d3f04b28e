"""Back to the newest checkpoint, and on with the samples behind a step that was refused (Chowdhery et al. 2022, PaLM)."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from megabiomed.checkpoint.catalog import latest_valid, list_checkpoints
from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.config import RunConfig
from megabiomed.data.loader import SampleLoader
from megabiomed.data.trace import papers_of_step
from megabiomed.ground.errors import CheckpointError
from megabiomed.processes import messages
from megabiomed.runs.checkpointing import load
from megabiomed.runs.training import Position, Step, Training


def target(training: Training, refused: Step, begun_from: Checkpoint | None) -> Checkpoint:
    """The newest regular checkpoint of the run, after the save under way; else the one that the run began from. Collective.

    Raises:
        CheckpointError: on every rank: there is none.
    """
    training.guard.beat("rewind", training.step, long=True)
    training.checkpoints.wait()
    path = messages.from_first(lambda: _newest(training.config))
    found = Checkpoint.open(path) if path else begun_from
    if found is None:
        raise CheckpointError(
            f"step {refused.number} cannot be rewound", got="no checkpoint of the run yet",
            do="lower optimizer.lr or checkpoint.save_every, and start the run again",
        )  # fmt: skip
    return found


def _newest(config: RunConfig) -> str | None:
    """One that is saved at an interval of steps, if there is one: a run that was stopped elsewhere goes back as far."""
    folder, kept = config.folder / "checkpoints", config.checkpoint
    for item in list_checkpoints(folder):
        if item.committed and any(every and item.step % every == 0 for every in (kept.save_every, kept.keep_every)):
            with suppress(CheckpointError):
                return str(Checkpoint.open(item.path, kept.verify).path)
    found, _ = latest_valid(folder, kept.verify)
    return str(found.path) if found else None


def rewind(training: Training, refused: Step, found: Checkpoint, position: Position, loader: SampleLoader) -> None:
    """Load a checkpoint into what is trained; the samples from there to the refused step are passed over. Collective.

    Args:
        position: that of the checkpoint.
    """
    line = load(training.module.engine, found, position.step)
    read = refused.batch.first_sample
    first, end = position.progress.next_sample, read + len(refused.batch.sample_ids)
    position.progress = position.progress.skip(loader.order.sample_ids(first, end - first))
    position.tokens += (end - first) * training.config.data.seq_length
    # What was spent stays spent, or a run could rewind for ever.
    position.health = replace(position.health, spent=training.position.health.spent)
    training.position, loader.first_sample = position, end
    training.checkpoints.rewound()
    reporter = training.reporter
    reporter.event(
        "rewind", step=refused.number, to_step=position.step, checkpoint=str(found.path), sample=end,
        skipped=[first, end - first], samples=[read, end - read], windows=refused.batch.sample_ids.tolist(),
        **(papers_of_step(loader, read, end - read) if reporter.active else {}),
    )  # fmt: skip
    reporter.say(
        f"rewind: from step {refused.number} to step {position.step}, past samples {first} to {end - 1}; {line}"
    )
    reporter.start_clock()
