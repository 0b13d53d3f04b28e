"""Where the weights of a stage come from: its predecessors' checkpoints first, then what the run began with."""

from __future__ import annotations

from typing import Any

from megabiomed.checkpoint.catalog import latest_valid
from megabiomed.checkpoint.logical import TensorSource
from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.checkpoint.sources import ChainSource
from megabiomed.config.align import AlignRunConfig
from megabiomed.errors import CheckpointError
from megabiomed.model.llama import origin
from megabiomed.model.llama.convert import logical_tensors
from megabiomed.model.llama.origin import check_frozen

__all__ = ["ChainSource", "check_frozen", "frozen_reference", "language_model_base", "stage_source"]


def stage_source(config: AlignRunConfig, number: int) -> ChainSource:
    """Weights that stage `number` starts from.

    Raises:
        CheckpointError: an earlier stage has no checkpoint, or is not finished.
    """
    checkpoints: list[Checkpoint] = []
    for earlier in range(number):
        run = config.stage_run(earlier)
        found, _ = latest_valid(run.folder / "checkpoints")
        if found is None or found.step < config.align.stages[earlier].steps:
            raise CheckpointError(
                f"stage {config.align.stages[number].name} starts from stage {config.align.stages[earlier].name}",
                got=f"step {found.step}" if found else "no checkpoint of it",
                expected=f"its last checkpoint, of step {config.align.stages[earlier].steps}",
                do="run the earlier stage to its end first (`megabiomed align` without --stage)",
            )
        checkpoints.insert(0, found)
    base, _ = language_model_base(config)
    return ChainSource(checkpoints, base, frozenset(logical_tensors(config.model)))


def language_model_base(config: AlignRunConfig) -> tuple[TensorSource, dict[str, Any]]:
    """The language model that the run begins with, and a description of it without its hash."""
    return origin.model_base(config.align.language_model, config.model, config.seed)


def frozen_reference(config: AlignRunConfig) -> dict[str, Any]:
    """What a checkpoint says about the language model that it does not hold. Rank 0 hashes for all."""
    return origin.frozen_reference(config.align.language_model, config.model, config.seed)
