"""Where the weights of a stage come from: its predecessors' checkpoints first, then what the run began with."""

from __future__ import annotations

from collections.abc import Sequence

from megabiomed.checkpoint.catalog import latest_valid
from megabiomed.checkpoint.logical import TensorSource
from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.checkpoint.sources import ChainSource
from megabiomed.checkpoint.state import Reference
from megabiomed.config.align import AlignRunConfig
from megabiomed.ground.errors import CheckpointError
from megabiomed.model import frozen, start_from
from megabiomed.model.fresh import AdapterInit
from megabiomed.model.merged import MergedSource
from megabiomed.model.registry import architecture_of

_BESIDE = ("encoder.", "adaptor.")


class StageSource(ChainSource):
    """Encoders and adaptors of the newest stage that holds them; the language model with earlier stages' adapters merged.

    Args:
        checkpoints: of finished stages, the newest first.
        front: the checkpoint that a stage continues from, before everything else.
    """

    def __init__(
        self, checkpoints: Sequence[Checkpoint], config: AlignRunConfig, front: Checkpoint | None = None
    ) -> None:
        names = frozenset(architecture_of(config.model).shapes)
        super().__init__(checkpoints, language_model_base(config)[0], names)
        self.config, self.front = config, front
        self._fresh = AdapterInit(config.model, config.seed)
        for checkpoint in reversed(self.checkpoints):  # the oldest first
            lora = checkpoint.trainer.stage_lora
            if lora is not None:
                self.base = MergedSource(checkpoint, self.base, config.model, lora)
            # A stage that trained the whole model replaces all before it.
            elif names <= set(checkpoint.shapes):
                self.base = checkpoint

    def holds(self, name: str) -> bool:
        """See the base class."""
        return (self.front is not None and name in self.front.shapes) or super().holds(name)

    def _holder(self, name: str) -> TensorSource:
        if self.front is not None and name in self.front.shapes:
            return self.front
        if name.startswith(_BESIDE):
            return super()._holder(name)
        # Adapters that no stage has trained begin fresh.
        return self._fresh if ".lora_" in name else self.base

    def before(self, checkpoint: Checkpoint) -> StageSource:
        """See the base class."""
        return StageSource(self.checkpoints, self.config, checkpoint)


def stage_source(config: AlignRunConfig, number: int) -> StageSource:
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
        # The newest first, as a chain is asked.
        checkpoints.insert(0, found)
    return StageSource(checkpoints, config)


def language_model_base(config: AlignRunConfig) -> tuple[TensorSource, frozen.Described]:
    """The language model that the run begins with, and a description of it without its hash."""
    return start_from.model_base(config.align.language_model, config.model, config.seed)


def frozen_reference(config: AlignRunConfig) -> Reference:
    """What a checkpoint says about the language model that it does not hold. Rank 0 hashes for all."""
    return start_from.frozen_reference(config.align.language_model, config.model, config.seed, config.folder)
