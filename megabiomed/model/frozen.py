"""Frozen models by their hash: a checkpoint that stores only trained parts names what they were trained with."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal, NamedTuple

from megabiomed.checkpoint.manifest import MANIFEST
from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.checkpoint.state import Frozen, Reference
from megabiomed.ground.errors import CheckpointError
from megabiomed.ground.files import sha256_file
from megabiomed.ground.hashes import FileHashes
from megabiomed.model.hf_files import weight_files


class Described(NamedTuple):
    """Where the language model of a run comes from, before its weights are hashed.

    Attributes:
        path: of a checkpoint or a Hugging Face folder; None for weights that the run's seed gives.
    """

    kind: Literal["checkpoint", "huggingface", "seeded"]
    path: Path | None


def hash_of(described: Described, seed: int, hashes: FileHashes) -> str:
    """Hash of the weights that a run begins with."""
    path = described.path
    if path is None:
        return hashlib.sha256(f"seed {seed}".encode()).hexdigest()
    if described.kind == "checkpoint":
        return sha256_file(path / MANIFEST)
    return hashlib.sha256("".join(hashes.sha256(f) for f in weight_files(path)).encode()).hexdigest()


def same_start(checkpoint: Checkpoint, start: Path | None) -> Path | None:
    """Where a resumed run finds its frozen model: the very checkpoint of `start` that it began with, if it is there.

    A run folder given as `start` may have newer checkpoints by now.
    """
    named = checkpoint.trainer.language_model
    if start is None or named is None or named.kind != "checkpoint" or named.path is None:
        return start
    held = Path(named.path)
    return held if held.is_dir() and held.resolve().is_relative_to(start.resolve()) else start


def check_frozen(stored: Frozen, now: Frozen, where: Path) -> None:
    """Refuse to continue with other frozen weights than those a checkpoint was trained beside."""
    for name, value in stored.items():
        before, after = (held.sha256 if isinstance(held, Reference) else held for held in (value, now.get(name, "")))
        if before != after:
            raise CheckpointError(
                f"the frozen {name} is not the one that {where} was trained with",
                got=after[:16],
                expected=before[:16],
                do="restore what the run began with (finetune.start_from, align.language_model, model.init_from, the "
                "encoder's init_from, the seed)",
            )
