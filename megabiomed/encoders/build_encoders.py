"""Encoders and adaptors of an alignment, whole and on the CPU, before anything is sharded."""

from __future__ import annotations

import torch
from torch import nn

from megabiomed.config.align import AlignConfig
from megabiomed.encoders.adaptors import build_adaptor
from megabiomed.encoders.encoder import encoder_of
from megabiomed.encoders.lora import add_lora
from megabiomed.ground.staged import local


def build_encoders(config: AlignConfig, hidden_size: int, seed: int) -> tuple[nn.ModuleDict, nn.ModuleDict]:
    """Encoders (from their files, or seeded) and seeded adaptors, whole, on the CPU."""
    parts = config.parts()
    # The same seed on every rank: replicas begin equal without a broadcast.
    torch.manual_seed(seed)
    encoders = nn.ModuleDict({part.name: encoder_of(part).build(part.encoder) for part in parts})
    for part in parts:
        if part.encoder.init_from is not None:
            encoder_of(part).load(encoders[part.name], part.encoder, local(part.encoder.init_from))
    # Seeds of their own: what an encoder draws must not change adaptors and updates.
    torch.manual_seed(seed + 1)
    adaptors = {part.name: build_adaptor(part.adaptor, part.encoder.hidden_size, hidden_size) for part in parts}
    for number, part in enumerate(parts):
        # In every stage if any trains them: later stages need the updates of earlier ones.
        if config.uses_lora(part.name):
            matrices = encoder_of(part).lora_matrices(part.encoder)
            add_lora(encoders[part.name], part.encoder.lora, matrices, seed + 2 + number)
    return encoders, nn.ModuleDict(adaptors)


def without_files(config: AlignConfig) -> AlignConfig:
    """The same architecture without files to read."""
    empty = {"init_from": None}
    shipped = {
        part.name: part.encoder.model_copy(update=empty)
        for part in config.parts()
        if part.name not in config.modalities
    }
    added = {
        name: held.model_copy(update={"encoder": held.encoder.model_copy(update=empty)})
        for name, held in config.modalities.items()
    }
    return config.model_copy(update={**shipped, "modalities": added})
