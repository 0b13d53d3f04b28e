"""A whole multimodal model in one process, from any alignment checkpoint or from an exported folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from megabiomed.align.sources import StageSource, frozen_reference
from megabiomed.checkpoint.catalog import latest_valid
from megabiomed.checkpoint.locate import ALIGNMENT_EXPORT, locate
from megabiomed.checkpoint.logical import Box
from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.checkpoint.state import Frozen
from megabiomed.checkpoint.uses import ALIGNED, ALIGNED_RUN, Kind
from megabiomed.config.align import AlignConfig, AlignRunConfig
from megabiomed.config.base import parse
from megabiomed.config.yaml_text import read_yaml
from megabiomed.encoders.build_encoders import build_encoders
from megabiomed.encoders.encoder import encoder_of
from megabiomed.encoders.modality import Features, Modality, modality_of
from megabiomed.encoders.weights import fingerprint
from megabiomed.ground.errors import CheckpointError
from megabiomed.ground.files import read_json, sha256_file
from megabiomed.model.as_transformers import as_transformers
from megabiomed.model.frozen import check_frozen
from megabiomed.processes import platform
from megabiomed.tokenizer.files import open_in, open_tokenizer
from megabiomed.tokenizer.interface import Tokenizer

DESCRIPTION = ALIGNMENT_EXPORT
ENCODERS = "encoders.safetensors"
ADAPTORS = "adaptors.safetensors"
FORMAT = 1


@dataclass
class AlignedModel:
    """Language model, encoders and adaptors on this process's device, in evaluation mode.

    Attributes:
        model: transformers' LlamaForCausalLM.
        template: name of the prompt template that it was trained with.
        origin: the checkpoint or folder, for messages and records.
    """

    model: Any
    encoders: nn.ModuleDict
    adaptors: nn.ModuleDict
    tokenizer: Tokenizer
    align: AlignConfig
    template: str
    origin: Path

    @cached_property
    def modalities(self) -> dict[str, Modality[Any, Any]]:
        """By name, in the order in which items come before a question."""
        return {part.name: modality_of(part.kind) for part in self.align.parts()}

    def features(self, name: str, text: str) -> Features:
        """Features of one item, under the limits of its encoder.

        Raises:
            ItemError: the text is no such item.
        """
        modality = self.modalities[name]
        encoder = next(part.encoder for part in self.align.parts() if part.name == name)
        found: Features = modality.featurise(text, modality.limits_of(encoder))
        return found

    @torch.no_grad()
    def rows(self, name: str, features: Features) -> Tensor:
        """Embeddings of one item of a modality, [n, h]."""
        batch = self.modalities[name].collate([features])
        encoded = self.encoders[name](batch.to(platform.device()))
        return cast(Tensor, self.adaptors[name](encoded, batch.rows))


@dataclass
class AlignedCheckpoint:
    """An alignment checkpoint with everything that it refers to, before any weights are read.

    Attributes:
        source: the checkpoint, those of the stages before it, and the language model that the run began with.
    """

    checkpoint: Checkpoint
    config: AlignRunConfig
    tokenizer: Path
    source: StageSource

    @property
    def template(self) -> str:
        """The prompt template of the training data."""
        return self.checkpoint.trainer.template or "biomedgpt"

    def modules(self) -> tuple[nn.ModuleDict, nn.ModuleDict]:
        """Encoders and adaptors with their trained values; what was frozen is checked against the stored hashes."""
        encoders, adaptors = build_encoders(self.config.align, self.config.model.hidden_size, self.config.seed)
        initial = {name: fingerprint(encoders[name]) for name in encoders}
        now: Frozen = {"language_model": frozen_reference(self.config), **initial}
        check_frozen(self.checkpoint.trainer.frozen, now, self.checkpoint.path)
        for prefix, modules in (("encoder", encoders), ("adaptor", adaptors)):
            for name, parameter in modules.named_parameters():
                # What no checkpoint holds keeps its first value, whose hash was compared above.
                if self.source.holds(f"{prefix}.{name}"):
                    parameter.data.copy_(self.source.read(Box.whole(f"{prefix}.{name}", tuple(parameter.shape))))
        return encoders, adaptors


def open_aligned(path: Path) -> AlignedModel:
    """The model of a run folder (its last stage with a checkpoint), a stage's folder, a checkpoint, or an export."""
    if locate(path).expect(ALIGNED).kind == Kind.EXPORT:
        return _from_export(path)
    found = open_checkpoint(path)
    encoders, adaptors = found.modules()
    tokenizer = open_tokenizer(found.tokenizer)
    dtype = platform.DTYPES[found.config.train.compute_type] if platform.has_cuda() else torch.float32
    model = as_transformers(found.config.model, found.source, dtype, tokenizer.bos_id, tokenizer.eos_id)
    for modules in (encoders, adaptors):
        modules.to(platform.device()).eval()
    align, origin = found.config.align, found.checkpoint.path
    return AlignedModel(model, encoders, adaptors, tokenizer, align, found.template, origin)


def open_checkpoint(run: Path) -> AlignedCheckpoint:
    """The checkpoint of an alignment run (its last stage with one), of a stage, or that one, and what it refers to."""
    checkpoint = locate(run).expect(ALIGNED_RUN).open()
    text = read_yaml(checkpoint.config_text, str(checkpoint.path))
    config = parse(AlignRunConfig, text, str(checkpoint.path))
    if checkpoint.tokenizer is None:
        raise CheckpointError(f"{checkpoint.path} holds no tokenizer", do="use a checkpoint of an alignment run")
    return AlignedCheckpoint(checkpoint, config, checkpoint.tokenizer, _chain(checkpoint, config))


def _chain(checkpoint: Checkpoint, config: AlignRunConfig) -> StageSource:
    stage, names = checkpoint.trainer.stage, [held.name for held in config.align.stages]
    if stage not in names:
        raise CheckpointError(
            f"{checkpoint.path} is of no stage of its configuration", got=stage, expected=", ".join(names)
        )
    # <run>/<stage>/checkpoints/<step>: the other stages are beside this one.
    root = checkpoint.path.resolve().parent.parent.parent
    chain = [checkpoint]
    for name in reversed(names[: names.index(stage)]):
        earlier, _ = latest_valid(root / name / "checkpoints")
        if earlier is None:
            raise CheckpointError(
                f"stage {stage} refers to stage {name}, whose checkpoint is gone", expected=str(root / name)
            )
        chain.append(earlier)
    return StageSource(chain, config)


def _check_files(folder: Path, hashes: dict[str, str]) -> None:
    for name in (ENCODERS, ADAPTORS):
        found = sha256_file(folder / name) if (folder / name).is_file() else "no such file"
        if found != hashes.get(name):
            raise CheckpointError(
                f"{folder / name} is damaged", got=found, expected=f"sha256 {hashes.get(name)}", do="export it again"
            )


def _from_export(folder: Path) -> AlignedModel:
    from transformers import AutoModelForCausalLM

    held = read_json(folder / DESCRIPTION)
    if held.get("format") != FORMAT:
        raise CheckpointError(f"{folder} has another format", got=held.get("format"), expected=FORMAT)
    _check_files(folder, held.get("sha256") or {})
    # The class asks for a stage; an export trains nothing.
    align = AlignConfig.model_validate({**held["align"], "stages": [{"name": "export", "steps": 1}]})
    # On a CPU half-precision products are slow and gain nothing.
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto" if platform.has_cuda() else torch.float32)
    encoders, adaptors = build_encoders(align, model.config.hidden_size, 0)
    values = load_file(folder / ENCODERS)
    for part in align.parts():
        encoder, module = encoder_of(part), encoders[part.name]
        # Constants are not part of the state dict, so they are taken out before it is loaded.
        constants = {name: values.pop(f"{part.name}.{name}") for name in encoder.constants(module)}
        encoder.set_constants(module, constants)
    encoders.load_state_dict(values)
    adaptors.load_state_dict(load_file(folder / ADAPTORS))
    for modules in (model, encoders, adaptors):
        modules.to(platform.device()).eval()
    tokenizer = open_in(folder)
    return AlignedModel(model, encoders, adaptors, tokenizer, align, held["template"], folder)
