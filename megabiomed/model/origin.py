"""What a run began with, and what a checkpoint that stores only trained parts refers to."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist

from megabiomed.checkpoint.locate import MODEL, locate
from megabiomed.checkpoint.logical import Box, TensorSource, fill
from megabiomed.checkpoint.manifest import MANIFEST
from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.checkpoint.sources import AdapterInit, ChainSource, SeededInit
from megabiomed.checkpoint.state import Frozen, Reference
from megabiomed.config import LoraConfig, ModelConfig
from megabiomed.config.base import parse
from megabiomed.ground.errors import CheckpointError
from megabiomed.ground.files import sha256_file
from megabiomed.ground.hashes import FileHashes
from megabiomed.model.adapters import adapted_matrices, factor_names
from megabiomed.model.hf_folder import HuggingFaceSource, logical_tensors, model_config_from_hf
from megabiomed.model.hf_folder import check_architecture as check_hugging_face
from megabiomed.model.vocabulary import open_folder

# Where a model came from, not what it is; may differ between a checkpoint and the run that loads it.
_ORIGIN = ("init_from", "initializer_range")


class Described(NamedTuple):
    """Where the language model of a run comes from, before its weights are hashed.

    Attributes:
        path: of a checkpoint or a Hugging Face folder; None for weights that the run's seed gives.
    """

    kind: Literal["checkpoint", "huggingface", "seeded"]
    path: Path | None


def check_architecture(checkpoint: Checkpoint, model: ModelConfig) -> None:
    """Refuse a checkpoint of another model, naming each difference."""
    wanted = model.model_dump(mode="json")
    different = [
        f"{key} {checkpoint.architecture.get(key)} -> {value}"
        for key, value in wanted.items()
        if key not in _ORIGIN and checkpoint.architecture.get(key) != value
    ]
    if different:
        raise CheckpointError(
            f"{checkpoint.path} is of another model",
            got=", ".join(different),
            expected="the architecture in `model:`",
            do="use the model that wrote it, or another run name",
        )


def model_base(
    start: Path | None, model: ModelConfig, seed: int, tokenizer: Path | None = None
) -> tuple[TensorSource, Described]:
    """The language model that a run begins with, and a description of it without its hash.

    Args:
        start: run folder, checkpoint or Hugging Face folder; None takes `model.init_from`, or seeded weights.
        tokenizer: of a run that trains all of it; a Hugging Face folder with a smaller vocabulary then grows by the
            pieces it has more.

    Raises:
        CheckpointError: nothing is there, or it is of another model, or has fewer rows than the run has pieces.
    """
    located = None if start is None else locate(start).expect(MODEL)
    if located is not None and not located.is_hugging_face:
        checkpoint = located.open()
        _refuse_growth(located.path, int(checkpoint.architecture["vocab_size"]), model)
        check_architecture(checkpoint, model)
        return whole_model(checkpoint), Described("checkpoint", checkpoint.path.absolute())
    folder = start or model.init_from
    if folder is not None:
        described = Described("huggingface", folder.absolute())
        if tokenizer is not None:
            return open_folder(model.model_copy(update={"init_from": folder}), tokenizer)[0], described
        check_frozen_folder(folder, model)
        return HuggingFaceSource(folder), described
    return SeededInit(model, seed), Described("seeded", None)


def check_frozen_folder(start: Path | None, model: ModelConfig) -> None:
    """Refuse, from headers alone, a Hugging Face folder that cannot be the frozen model of a run; other starts pass."""
    folder = start or model.init_from
    if folder is not None and locate(folder).is_hugging_face:
        _refuse_growth(folder, model_config_from_hf(folder).vocab_size, model)
        check_hugging_face(folder, model)


def _refuse_growth(start: Path, rows: int, model: ModelConfig) -> None:
    """New rows are means of old ones, and two pieces made of the same parts begin alike: they must be trained."""
    if rows < model.vocab_size:
        raise CheckpointError(
            f"{start} has fewer rows than the tokenizer has pieces",
            got=f"{rows} rows",
            expected=f"model.vocab_size = {model.vocab_size}",
            do="only a Hugging Face folder (`checkpoint export-hf`) that is trained whole grows: run `megabiomed pretrain` "
            "or `finetune` on it without adapters, with the larger tokenizer, and start from that run",
        )


def frozen_reference(start: Path | None, model: ModelConfig, seed: int, run: Path | None = None) -> Reference:
    """What a checkpoint says about the language model that it does not hold. Rank 0 hashes for all. Collective.

    Args:
        run: folder of the run, which remembers hashes of files that did not change.
    """
    answer: list[Reference | None] = [None]
    if not dist.is_initialized() or dist.get_rank() == 0:
        _, described = model_base(start, model, seed)
        path = described.path and str(described.path)
        hashed = _hash(described, seed, FileHashes(run, write=True))
        answer[0] = Reference(kind=described.kind, path=path, sha256=hashed)
    if dist.is_initialized():
        dist.broadcast_object_list(answer, src=0)
    assert answer[0] is not None
    return answer[0]


def _hash(described: Described, seed: int, hashes: FileHashes) -> str:
    path = described.path
    if path is None:
        return hashlib.sha256(f"seed {seed}".encode()).hexdigest()
    if described.kind == "checkpoint":
        return sha256_file(path / MANIFEST)
    return hashlib.sha256("".join(hashes.sha256(f) for f in sorted(path.glob("*.safetensors"))).encode()).hexdigest()


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


def adapter_chain(start: Path | None, model: ModelConfig, seed: int) -> ChainSource:
    """A frozen language model with fresh adapters."""
    base, _ = model_base(start, model, seed)
    return ChainSource([], _WithFreshAdapters(base, AdapterInit(model, seed)), frozenset(logical_tensors(model)))


class _WithFreshAdapters:
    def __init__(self, base: TensorSource, fresh: AdapterInit) -> None:
        self.base, self.fresh = base, fresh

    def read(self, box: Box, kind: str = "param") -> torch.Tensor:
        return (self.fresh if ".lora_" in box.name else self.base).read(box, kind)

    def read_into(self, box: Box, out: torch.Tensor, kind: str = "param") -> None:
        fill(self.fresh if ".lora_" in box.name else self.base, box, out, kind)


class MergedSource:
    """W + scale * B A of a checkpoint of adapters, box by box; implements `TensorSource` for the whole model."""

    def __init__(self, checkpoint: Checkpoint, base: TensorSource, model: ModelConfig, lora: LoraConfig) -> None:
        self.checkpoint, self.base, self.lora = checkpoint, base, lora
        self._adapted = adapted_matrices(model, lora)

    def read(self, box: Box, kind: str = "param") -> torch.Tensor:
        """Values of one box as fp32; moments of merged weights do not exist and read as zeros."""
        if kind != "param":
            return torch.zeros(box.shape)
        values = self.base.read(box)
        if box.name in self._adapted:
            (outputs, inputs), rank = box.global_shape, self.lora.rank
            a, b = factor_names(box.name)
            (row, column), (rows, columns) = box.offset, box.shape
            left = self.checkpoint.read(Box(b, (outputs, rank), (row, 0), (rows, rank)))
            right = self.checkpoint.read(Box(a, (rank, inputs), (0, column), (rank, columns)))
            # In fp64, so that the sum does not depend on how the matrix is cut into boxes.
            values = values.double().addmm_(left.double(), right.double(), alpha=self.lora.scale).float()
        return values


def adapters_of(checkpoint: Checkpoint) -> LoraConfig | None:
    """The adapters' configuration of a checkpoint that stores adapters, else None."""
    return checkpoint.trainer.lora


def check_adapters(checkpoint: Checkpoint, lora: LoraConfig | None) -> None:
    """Refuse to go on with other adapters than a checkpoint's, or without any; dropout may change.

    Raises:
        CheckpointError: naming both.
    """
    stored = adapters_of(checkpoint)
    before, now = (_function_of(each) for each in (stored, lora))
    if before != now:
        raise CheckpointError(
            f"{checkpoint.path} was trained with other adapters", got=now, expected=before,
            do="restore the section `lora`, or begin another run that starts from this one (finetune.start_from)",
        )  # fmt: skip


def _function_of(lora: LoraConfig | None) -> str:
    return "none" if lora is None else f"rank {lora.rank}, alpha {lora.alpha:g} on {', '.join(lora.targets)}"


def whole_model(checkpoint: Checkpoint, base: Path | None = None) -> TensorSource:
    """Every tensor of the language model of a checkpoint: itself, or adapters merged into what they were trained beside.

    Args:
        base: where the frozen model is now; None takes the place that the checkpoint names.

    Raises:
        CheckpointError: the frozen model is gone, or is not the one that the adapters were trained beside.
    """
    if checkpoint.trainer.stage is not None:
        raise CheckpointError(
            f"{checkpoint.path} is of an alignment and holds what its stage trained",
            do="`megabiomed evaluate` and `generate` take it; `align-export` makes a whole model of it",
        )
    lora = adapters_of(checkpoint)
    if lora is None and base is not None:
        raise CheckpointError(f"{checkpoint.path} holds no adapters", got=f"--base {base}", do="leave --base out")
    if lora is None:
        return checkpoint
    model = parse(ModelConfig, checkpoint.architecture, str(checkpoint.path))
    stored = checkpoint.language_model
    place = base or (Path(stored.path) if stored.path else None)
    if place is not None and not place.exists():
        raise CheckpointError(
            f"{checkpoint.path} holds adapters; the model beside which they were trained is gone",
            got=f"no {place}",
            do="restore it, or give --base with the place where it is now",
        )
    seed = checkpoint.trainer.seed
    frozen, described = model_base(place, model.model_copy(update={"init_from": None}), seed)
    hashed = _hash(described, seed, FileHashes(checkpoint.path.parent.parent))
    check_frozen({"language model": stored.sha256}, {"language model": hashed}, checkpoint.path)
    return MergedSource(checkpoint, frozen, model, lora)
