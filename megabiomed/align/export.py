"""`megabiomed align-export`: an aligned model as one folder that needs neither its run nor any earlier stage.

config.json, model*.safetensors, tokenizer: the language model as transformers loads it. encoders.safetensors (names of
pretrain-gnns and fair-esm; LoRA merged), adaptors.safetensors, alignment.json: what `megabiomed chat` needs besides.
README.md: the model card.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import nn

from megabiomed.align.aligned import ADAPTORS, DESCRIPTION, ENCODERS, FORMAT, AlignedCheckpoint, open_checkpoint
from megabiomed.config.align import AlignConfig
from megabiomed.config.modalities import MODALITIES
from megabiomed.encoders.encoder import encoder_of
from megabiomed.encoders.lora import merged_state
from megabiomed.ground.files import sha256_file, write_json
from megabiomed.model.card import write_card
from megabiomed.model.hf_export import export_hf

# Keys about training and about one machine, which mean nothing to whoever opens the export.
_DROPPED = {"init_from", "cache", "cache_gib", "lora", "placement"}


def export_aligned(run: Path, folder: Path, dtype: Literal["bf16", "fp16", "fp32"]) -> Path:
    """Write the folder; it appears under its name only when it is complete. Encoders and adaptors stay fp32.

    Raises:
        CheckpointError: no alignment checkpoint, or the folder exists.
    """
    found = open_checkpoint(run)
    encoders, adaptors = found.modules()

    def add(temporary: Path) -> None:
        save_file(_encoder_state(found.config.align, encoders), temporary / ENCODERS)
        save_file({name: value.contiguous() for name, value in adaptors.state_dict().items()}, temporary / ADAPTORS)
        hashes = {name: sha256_file(temporary / name) for name in (ENCODERS, ADAPTORS)}
        write_json(temporary / DESCRIPTION, {**_description(found), "sha256": hashes})
        write_card(temporary, folder.name, found.checkpoint)

    return export_hf(found.source, found.config.model, folder, dtype, found.tokenizer, inspect=add)


def _encoder_state(align: AlignConfig, encoders: nn.ModuleDict) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = {}
    for part in align.parts():
        module = encoders[part.name]
        held = {**merged_state(module), **encoder_of(part).constants(module)}
        state |= {f"{part.name}.{key}": value.contiguous() for key, value in held.items()}
    return state


def _description(found: AlignedCheckpoint) -> dict[str, Any]:
    config = found.config.align
    align: dict[str, Any] = dict.fromkeys(MODALITIES.names())
    added = {}
    for part in config.parts():
        encoder, adaptor = part.encoder.model_dump(mode="json", exclude=_DROPPED), part.adaptor.model_dump(mode="json")
        if part.name in config.modalities:
            added[part.name] = {"kind": part.kind, "encoder": encoder, "adaptor": adaptor}
        else:
            align |= {part.name: encoder, f"{part.name}_adaptor": adaptor}
    align |= {"modalities": added} if added else {}  # which older versions could not read
    return {"format": FORMAT, "align": align, "template": found.template, "made_from": str(found.checkpoint.path)}
