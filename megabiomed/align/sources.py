"""Where the weights of a stage come from: its predecessors' checkpoints first, then what the run began with."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from megabiomed.checkpoint.catalog import latest_valid
from megabiomed.checkpoint.files import sha256_file
from megabiomed.checkpoint.logical import Box, TensorSource, fill
from megabiomed.checkpoint.manifest import MANIFEST
from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.checkpoint.report import newest
from megabiomed.checkpoint.sources import SeededInit
from megabiomed.config.align import AlignRunConfig
from megabiomed.errors import CheckpointError
from megabiomed.model.llama.convert import HuggingFaceSource, logical_tensors
from megabiomed.model.llama.convert import check_architecture as check_hugging_face
from megabiomed.train.checkpointing import check_architecture


class ChainSource:
    """The first source that holds a tensor answers for it; implements `TensorSource`."""

    def __init__(self, checkpoints: Sequence[Checkpoint], base: TensorSource, base_names: frozenset[str]) -> None:
        self.checkpoints, self.base, self._names = list(checkpoints), base, base_names

    def holds(self, name: str) -> bool:
        """Whether anybody has the tensor."""
        return name in self._names or any(name in checkpoint.shapes for checkpoint in self.checkpoints)

    def _holder(self, name: str) -> TensorSource:
        return next((checkpoint for checkpoint in self.checkpoints if name in checkpoint.shapes), self.base)

    def read(self, box: Box, kind: str = "param") -> torch.Tensor:
        """Values of one box as fp32."""
        values = torch.empty(box.shape)
        self.read_into(box, values, kind)
        return values

    def read_into(self, box: Box, out: torch.Tensor, kind: str = "param") -> None:
        """Fill `out` with the values of one box."""
        fill(self._holder(box.name), box, out, kind)

    def before(self, checkpoint: Checkpoint) -> ChainSource:
        """The same chain with a newer checkpoint in front."""
        return ChainSource([checkpoint, *self.checkpoints], self.base, self._names)


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
    path = config.align.language_model
    if path is not None:
        checkpoint = newest(path, hashes=False)
        check_architecture(checkpoint, config.model)
        return checkpoint, {"kind": "checkpoint", "path": str(checkpoint.path)}
    if config.model.init_from is not None:
        check_hugging_face(config.model.init_from, config.model)
        return HuggingFaceSource(config.model.init_from), {"kind": "huggingface", "path": str(config.model.init_from)}
    return SeededInit(config.model, config.seed), {"kind": "seeded", "path": None}


def frozen_reference(config: AlignRunConfig) -> dict[str, Any]:
    """What a checkpoint says about the language model that it does not hold. Rank 0 hashes for all."""
    answer: list[Any] = [None]
    if not dist.is_initialized() or dist.get_rank() == 0:
        _, described = language_model_base(config)
        answer[0] = {**described, "sha256": _hash(described, config.seed)}
    if dist.is_initialized():
        dist.broadcast_object_list(answer, src=0)
    reference: dict[str, Any] = answer[0]
    return reference


def _hash(described: dict[str, Any], seed: int) -> str:
    if described["kind"] == "seeded":
        return hashlib.sha256(f"seed {seed}".encode()).hexdigest()
    path = Path(described["path"])
    if described["kind"] == "checkpoint":
        return sha256_file(path / MANIFEST)
    return hashlib.sha256("".join(sha256_file(f) for f in sorted(path.glob("*.safetensors"))).encode()).hexdigest()


def check_frozen(stored: dict[str, Any], now: dict[str, Any], where: Path) -> None:
    """Refuse to continue with other frozen weights than those a checkpoint was trained beside."""
    for name, value in stored.items():
        before, after = (held["sha256"] if isinstance(held, dict) else held for held in (value, now.get(name, "")))
        if before != after:
            raise CheckpointError(
                f"the frozen {name} is not the one that {where} was trained with",
                got=str(after)[:16],
                expected=str(before)[:16],
                do="restore it (align.language_model, model.init_from or the encoder's init_from and seed)",
            )
