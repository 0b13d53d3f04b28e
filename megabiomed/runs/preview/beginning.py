"""What a run of a language model begins with, or goes on from: checked and said before any rank is started."""

from __future__ import annotations

from pathlib import Path

from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.config import RunConfig
from megabiomed.model.start_from import check_architecture, check_start
from megabiomed.runs.checkpointing import choose, no_earlier_run


def check_beginning(config: RunConfig, start: Path | None, tokenizer: Path | None) -> None:
    """Refuse a start that its ranks would refuse after minutes.

    Args:
        start: the model that the run is told to begin with; None: `model.init_from` or random weights.
        tokenizer: that of the run, where it is known already.

    Raises:
        CheckpointError: as `check_start`, or the run was trained before and cannot go on.
    """
    resumed = resumed_from(config)
    if resumed is None and config.train.first_step:
        raise no_earlier_run(config)
    if resumed is not None:
        check_architecture(resumed, config.model)
        if config.lora is None:
            return  # it has all its weights; what it once began with may be gone
    check_start(start, config.model, grows=config.lora is None, tokenizer=tokenizer)


def beginning(config: RunConfig, start: Path | None) -> str:
    """One line for a dry run."""
    resumed = resumed_from(config)
    if resumed is not None:
        return f"resume: step {resumed.step} from {resumed.path}"
    folder = start or config.model.init_from
    if folder is None:
        return "starts from: random weights"
    return f"starts from: {folder}" + ("" if folder.exists() else ", not there yet")


def resumed_from(config: RunConfig) -> Checkpoint | None:
    """The checkpoint that a start would go on from, by names and sizes; None where it begins at step 0."""
    quick = config.checkpoint.model_copy(update={"verify": "size"})
    return choose(config.model_copy(update={"checkpoint": quick})).checkpoint
