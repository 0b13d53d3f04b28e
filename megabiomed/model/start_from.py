"""What a run begins with: a checkpoint, a Hugging Face folder or fresh weights; and all of a checkpoint's model."""

from __future__ import annotations

from pathlib import Path

import torch

from megabiomed.checkpoint.locate import locate
from megabiomed.checkpoint.logical import Box, TensorSource, fill
from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.checkpoint.sources import ChainSource
from megabiomed.checkpoint.state import Reference
from megabiomed.checkpoint.uses import MODEL, TRANSFORMERS, Kind
from megabiomed.config import ModelConfig
from megabiomed.config.models import stored_model
from megabiomed.ground.errors import CheckpointError
from megabiomed.ground.hashes import FileHashes
from megabiomed.ground.staged import local
from megabiomed.model.fresh import AdapterInit, SeededInit
from megabiomed.model.frozen import Described, check_frozen, hash_of
from megabiomed.model.hf_config import model_config_from_hf
from megabiomed.model.hf_folder import HuggingFaceSource
from megabiomed.model.hf_folder import check_architecture as check_hugging_face
from megabiomed.model.merged import MergedSource, adapters_of
from megabiomed.model.registry import architecture_of
from megabiomed.model.vocabulary import open_folder
from megabiomed.processes import messages
from megabiomed.tokenizer.files import open_if_any, open_tokenizer
from megabiomed.tokenizer.interface import Tokenizer


def check_architecture(checkpoint: Checkpoint, model: ModelConfig) -> None:
    """Refuse a checkpoint of another model, naming each difference."""
    stored = stored_model(checkpoint.architecture, str(checkpoint.path)).identity()
    different = [
        f"{key} {stored.get(key)} -> {value}" for key, value in model.identity().items() if stored.get(key) != value
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
            return open_folder(model.model_copy(update={"init_from": local(folder)}), tokenizer)[0], described
        check_start(folder, model)
        return HuggingFaceSource(local(folder)), described
    return SeededInit(model, seed), Described("seeded", None)


def check_start(start: Path | None, model: ModelConfig, grows: bool = False, tokenizer: Path | None = None) -> None:
    """Refuse, before any rank is started and from headers alone, what a run cannot begin with.

    A `start` that is not there yet passes: an earlier run of a chain may have to write it. `model.init_from` must be there.

    Args:
        start: as of `model_base`.
        grows: whether the run trains the whole model, so that a Hugging Face folder may have fewer rows.
        tokenizer: that of the run, where it is known already.

    Raises:
        CheckpointError: it is no model, another model, or has fewer rows than the run has pieces.
    """
    folder = start or model.init_from
    if folder is None or (start is not None and locate(start).kind == Kind.MISSING):
        return
    located = locate(folder).expect(MODEL if start is not None else TRANSFORMERS)
    if not located.is_hugging_face:
        checkpoint = located.open()
        _refuse_stage(checkpoint)
        _refuse_growth(located.path, int(checkpoint.architecture["vocab_size"]), model)
        check_architecture(checkpoint, model)
        if checkpoint.tokenizer is not None:
            _refuse_new_pieces(located.path, open_tokenizer(checkpoint.tokenizer), tokenizer)
        return
    rows = model_config_from_hf(folder, model.kind, model.max_position_embeddings).vocab_size
    if not grows:
        _refuse_growth(folder, rows, model)
        _refuse_new_pieces(folder, open_if_any(folder), tokenizer)
    if grows and tokenizer is not None:
        open_folder(model.model_copy(update={"init_from": folder}), tokenizer)
    else:
        check_hugging_face(folder, model.model_copy(update={"vocab_size": rows}) if grows else model)


def notes_on_tying(start: Path | None, model: ModelConfig) -> list[str]:
    """A line where a run begins with a folder whose output head is its embedding, and trains them apart."""
    folder = start or model.init_from
    if (
        folder is None
        or model.tie_word_embeddings
        or not locate(folder).is_hugging_face
        or not HuggingFaceSource(folder).tied
    ):
        return []
    return [
        f"{folder} ties its output head to its embedding; here the head begins as a copy, and both are trained apart "
        "(model.tie_word_embeddings: true trains them as one)"
    ]


def _refuse_growth(start: Path, rows: int, model: ModelConfig) -> None:
    """New rows are means of old ones, and two pieces made of the same parts begin alike: they must be trained."""
    if rows < model.vocab_size:
        raise CheckpointError(
            f"{start} has fewer rows than the tokenizer has pieces",
            got=f"{rows} rows",
            expected=f"model.vocab_size = {model.vocab_size}",
            do=_GROW,
        )


def _refuse_new_pieces(start: Path, own: Tokenizer | None, tokenizer: Path | None) -> None:
    """As `_refuse_growth`, where the model has a row for each new piece, which was never trained (a padded vocabulary)."""
    if own is None or tokenizer is None:
        return
    pieces = open_tokenizer(tokenizer).vocab_size
    if pieces > own.vocab_size:
        raise CheckpointError(
            f"{start} has no trained rows for all pieces of {tokenizer}",
            got=f"{own.vocab_size} pieces of its own tokenizer",
            expected=f"{pieces}",
            do=_GROW,
        )


_GROW = (
    "only a Hugging Face folder (`checkpoint export-hf`) that is trained whole grows: run `megabiomed pretrain` "
    "or `finetune` on it without adapters, with the larger tokenizer, and start from that run"
)


def _refuse_stage(checkpoint: Checkpoint) -> None:
    if checkpoint.trainer.stage is not None:
        raise CheckpointError(
            f"{checkpoint.path} is of an alignment and holds what its stage trained",
            do="`megabiomed evaluate` and `generate` take it; `align-export` makes a whole model of it",
        )


def frozen_reference(start: Path | None, model: ModelConfig, seed: int, run: Path | None = None) -> Reference:
    """What a checkpoint says about the language model that it does not hold. Rank 0 hashes for all. Collective.

    Args:
        run: folder of the run, which remembers hashes of files that did not change.
    """

    def described() -> dict[str, str | None]:
        _, base = model_base(start, model, seed)
        hashed = hash_of(base, seed, FileHashes(run, write=True))
        return {"kind": base.kind, "path": str(base.path) if base.path else None, "sha256": hashed}

    return Reference.model_validate(messages.from_first(described))


def adapter_chain(start: Path | None, model: ModelConfig, seed: int) -> ChainSource:
    """A frozen language model with fresh adapters."""
    base, _ = model_base(start, model, seed)
    return ChainSource([], _WithFreshAdapters(base, AdapterInit(model, seed)), frozenset(architecture_of(model).shapes))


class _WithFreshAdapters:
    def __init__(self, base: TensorSource, fresh: AdapterInit) -> None:
        self.base, self.fresh = base, fresh

    def read(self, box: Box, kind: str = "param") -> torch.Tensor:
        return (self.fresh if ".lora_" in box.name else self.base).read(box, kind)

    def read_into(self, box: Box, out: torch.Tensor, kind: str = "param") -> None:
        fill(self.fresh if ".lora_" in box.name else self.base, box, out, kind)


def whole_model(checkpoint: Checkpoint, base: Path | None = None) -> TensorSource:
    """Every tensor of the language model of a checkpoint: itself, or adapters merged into what they were trained beside.

    Args:
        base: where the frozen model is now; None takes the place that the checkpoint names.

    Raises:
        CheckpointError: the frozen model is gone, or is not the one that the adapters were trained beside.
    """
    _refuse_stage(checkpoint)
    lora = adapters_of(checkpoint)
    if lora is None and base is not None:
        raise CheckpointError(f"{checkpoint.path} holds no adapters", got=f"--base {base}", do="leave --base out")
    if lora is None:
        return checkpoint
    model = stored_model(checkpoint.architecture, str(checkpoint.path))
    stored = checkpoint.language_model
    place = base or (Path(stored.path) if stored.path else None)
    if place is not None and not place.exists():
        raise CheckpointError(
            f"{checkpoint.path} holds adapters; the model beside which they were trained is gone",
            got=f"no {place}",
            do="restore it, or give --base with the place where it is now",
        )
    seed = checkpoint.trainer.seed
    # Without init_from: the place is given, or a seed makes the weights.
    frozen, described = model_base(place, model.model_copy(update={"init_from": None}), seed)
    hashed = hash_of(described, seed, FileHashes(checkpoint.path.parent.parent))
    check_frozen({"language model": stored.sha256}, {"language model": hashed}, checkpoint.path)
    return MergedSource(checkpoint, frozen, model, lora)
