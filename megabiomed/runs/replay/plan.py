"""What a replay computes: from which checkpoint, which steps, on which samples, on which topology."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from megabiomed.checkpoint.catalog import list_checkpoints
from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.config import RunConfig
from megabiomed.data.steps import RunSteps, StepSamples
from megabiomed.ground.errors import CheckpointError, DataError
from megabiomed.runs.history import reached_step, read_events, run_steps
from megabiomed.runs.replay.recorded import JUDGED, refused_steps


class PlannedStep(BaseModel):
    """One step: its number from 1, its first sample, whether its update is applied, and the papers that are masked."""

    model_config = ConfigDict(frozen=True)

    step: int
    sample: int
    applied: bool
    quarantined: list[str] = Field(default_factory=list)


class Plan(BaseModel):
    """All that the ranks of a replay need besides the configuration.

    Attributes:
        config: file of the configuration, the topology of the replay in it.
        part: the stage of an alignment.
        checkpoint: folder that the weights come from; None: the weights that the run begins with.
        done: steps that are done there.
        steps: what is computed; the last one is the step that was asked for.
        same_topology: whether it is that of the run.
    """

    model_config = ConfigDict(frozen=True)

    config: str
    part: str | None
    checkpoint: str | None
    done: int
    steps: list[PlannedStep]
    same_topology: bool = False


def attempt_of(config: RunConfig, step: int, attempt: int | None) -> tuple[StepSamples, RunSteps, list[str]]:
    """The samples of a step as it was computed, those of all steps of the run, and lines for people.

    Args:
        attempt: which time, from 1; None: the one that an event tells of, or the last.

    Raises:
        DataError: the run did not come to the step, or not so often.
    """
    steps, folder = run_steps(config), config.folder
    reached = reached_step(folder)
    if step > reached:
        raise DataError(
            f"the run did not come to step {step}", got=f"{reached} steps so far", do="give a step that was computed"
        )
    told = {
        (event["samples"][0], event["samples"][1]) for event in read_events(folder)
        if event["event"] in JUDGED and event.get("step") == step
    }  # fmt: skip
    if attempt is None:
        having = steps.attempts(step)
        numbers = [number for number, each in enumerate(having, 1) if (each.first, each.size) in told]
        attempt = numbers[-1] if numbers else None
    chosen, note = steps.choose(step, attempt)
    return chosen, steps, [note] if note else []


def path_from(
    config: RunConfig, attempt: StepSamples, steps: RunSteps, from_start: bool
) -> tuple[Checkpoint | None, list[StepSamples]]:
    """The newest checkpoint before a step from which its weights came to be, and the steps from there to it.

    Args:
        from_start: take the weights that the run begins with instead.

    Raises:
        CheckpointError: there is none.
    """
    step = attempt.step
    if from_start:
        path = steps.path(attempt, 0)
        if steps.begins_after or path[0].first:
            raise CheckpointError(f"{config.name} goes on from another run", do="leave --from-start out")
        return None, path
    seen = []
    for checkpoint in _candidates(config, step):
        seen.append(str(checkpoint.step))
        path = steps.path(attempt, checkpoint.step - 1)
        if _leads_on(checkpoint, path, steps):
            return checkpoint, path[-(step - checkpoint.step) :]
    raise CheckpointError(
        f"there is no checkpoint before step {step} to compute it from",
        got=f"checkpoints before it: {', '.join(seen) or 'none'}",
        do=f"keep more of them (checkpoint.keep_every), or add --from-start to compute all {step} steps from the first",
    )


def _leads_on(checkpoint: Checkpoint, path: list[StepSamples], steps: RunSteps) -> bool:
    """Whether a checkpoint lies on a path, which begins with its own step where this run computed that."""
    if path[0].step > checkpoint.step:
        return checkpoint.step == steps.begins_after
    # A rewind to it moves the samples behind it, and not those before.
    return checkpoint.trainer.data.next_sample in (path[0].end, path[1].first)


def _candidates(config: RunConfig, step: int) -> Iterator[Checkpoint]:
    """Checkpoints before a step, the newest first; last the one that the run began with, if it is still there."""
    for item in list_checkpoints(config.folder / "checkpoints"):
        if item.committed and item.step < step:
            with suppress(CheckpointError):
                yield Checkpoint.open(item.path, config.checkpoint.verify)
    named = config.checkpoint.resume
    if named not in ("auto", "never") and Path(named).is_dir():
        found = Checkpoint.open(named, config.checkpoint.verify)
        if found.step < step:
            yield found


def planned(folder: Path, path: list[StepSamples]) -> list[PlannedStep]:
    """The steps of a path, with whether their updates were applied.

    Raises:
        CheckpointError: the batch size changed on the way.
    """
    sizes = sorted({each.size for each in path})
    if len(sizes) > 1:
        raise CheckpointError(
            "the batch size changed between the checkpoint and the step", got=f"global_batch_size {sizes}",
            do="give a step nearer to a checkpoint",
        )  # fmt: skip
    refused = refused_steps(folder)
    starts = [event for event in read_events(folder) if event["event"] in ("start", "resume")]
    return [
        PlannedStep(
            step=each.step, sample=each.first, applied=(each.step, each.first) not in refused,
            quarantined=_quarantined(starts, each.step),
        )
        for each in path
    ]  # fmt: skip


def _quarantined(starts: list[dict[str, Any]], step: int) -> list[str]:
    """The papers that the last start before a step masked."""
    return next((event.get("quarantined", []) for event in reversed(starts) if event["step"] < step), [])
