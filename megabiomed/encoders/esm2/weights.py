"""ESM-2 weights from fair-esm's files and Hugging Face folders, and their comparison with the authors' program."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from megabiomed.config.base import parse
from megabiomed.encoders.check import count, layers, relative
from megabiomed.encoders.encoder import FileCheck, Shapes
from megabiomed.encoders.esm2.alphabet import MASK, encode
from megabiomed.encoders.esm2.config import Esm2Config
from megabiomed.encoders.esm2.model import Esm2, ProteinBatch
from megabiomed.encoders.families import ESM2
from megabiomed.encoders.weights import State, fill, read_state, require_family, weight_files
from megabiomed.ground.errors import CheckpointError
from megabiomed.ground.files import inside, read_json, sha256_file

_PROTEINS = ("MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDGTQDNLSGAEKAVQVKVKALPDAQ", "M", "ACDEFGHIKLMNPQRSTVWYBUZOX")
_HF_LAYER = {
    "attention.self.query": "self_attn.q_proj",
    "attention.self.key": "self_attn.k_proj",
    "attention.self.value": "self_attn.v_proj",
    "attention.output.dense": "self_attn.out_proj",
    "attention.LayerNorm": "self_attn_layer_norm",
    "intermediate.dense": "fc1",
    "output.dense": "fc2",
    "LayerNorm": "final_layer_norm",
}
_UNUSED = ("lm_head.", "contact_head.", "pooler.", "embeddings.position_ids", "embeddings.position_embeddings")


def load_esm2(model: Esm2, path: Path) -> str:
    """Fill an ESM-2 from an official .pt or a Hugging Face EsmModel folder; returns a SHA-256 of the weights."""
    files = weight_files(path)
    if not files:
        raise CheckpointError(
            f"{path} holds no safetensors and no pytorch_model.bin", do="give an EsmModel folder or a fair-esm .pt file"
        )
    if path.is_dir():
        _check_folder(model, path)
    state: State = {}
    for file in files:
        state.update(read_state(file))
    require_family(state, ESM2, path)
    state = {key: value for name, value in state.items() if (key := esm2_key(name)) is not None}
    # Official files repeat them in every layer.
    frequencies = [state.pop(name) for name in list(state) if name.endswith("inv_freq")]
    if frequencies:
        model.inv_freq = frequencies[0].float().cpu()
    fill(model, state, path)
    return sha256_file(files[0]) if len(files) == 1 else _joined(files)


def esm2_key(name: str) -> str | None:
    """fair-esm's name of a tensor of an official file or a Hugging Face folder; None for what the trunk does not use."""
    name = re.sub(r"^(encoder\.sentence_encoder\.|esm\.)", "", name)
    name = re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name))  # transformers writes norms both ways
    if name.startswith("encoder.lm_head.") or name.startswith(_UNUSED):
        return None
    if name == "embeddings.word_embeddings.weight":
        return "embed_tokens.weight"
    if name == "rotary_embeddings.inv_freq" or name.endswith("rotary_embeddings.inv_freq"):
        return "layers.0.self_attn.rot_emb.inv_freq"
    if name.startswith("encoder.emb_layer_norm_after"):
        return name.removeprefix("encoder.")
    found = re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)\.(weight|bias)", name)
    return f"layers.{found[1]}.{_HF_LAYER[found[2]]}.{found[3]}" if found else name


def _folder_config(folder: Path) -> dict[str, Any]:
    return read_json(inside(folder, "config.json"), dict)


def _check_folder(model: Esm2, folder: Path) -> None:
    held = _folder_config(folder)
    if held.get("position_embedding_type") != "rotary" or not held.get("token_dropout", False):
        raise CheckpointError(
            f"{folder} is not an ESM-2",
            got=f"position_embedding_type {held.get('position_embedding_type')}, token_dropout {held.get('token_dropout')}",
            expected="rotary positions and token dropout (ESM-1 differs)",
        )
    if held.get("num_attention_heads") != model.config.num_attention_heads:
        raise CheckpointError(
            f"{folder} has another number of heads",
            got=held.get("num_attention_heads"),
            expected=model.config.num_attention_heads,
            do="set num_attention_heads of the protein encoder to that of the folder",
        )


def _joined(files: list[Path]) -> str:
    return hashlib.sha256("".join(sha256_file(file) for file in files).encode()).hexdigest()


def check_esm2(path: Path, shapes: Shapes, given: Mapping[str, int]) -> FileCheck | None:
    """Compare with fair-esm on packed proteins; None for a file without residues' embeddings."""
    from megabiomed.encoders.esm2.reference import reference_esm2, reference_tokens

    names = {key: shape for name, shape in shapes.items() if (key := esm2_key(name)) is not None}
    if "embed_tokens.weight" not in names:
        return None
    require_family(shapes, ESM2, path)
    settings = {"num_layers": layers(names, "layers"), "hidden_size": names["embed_tokens.weight"][1]}
    settings["num_attention_heads"] = given.get("num_attention_heads") or _heads(path, settings["hidden_size"])
    model = Esm2(parse(Esm2Config, settings, f"the settings of {path}")).eval()
    sha256 = load_esm2(model, path)
    proteins = [encode(sequence) for sequence in _PROTEINS]
    wrong = [s for s, p in zip(_PROTEINS, proteins) if p.tokens.tolist() != reference_tokens(s)]
    assert not wrong, wrong
    # So that the rescaling of token dropout is compared as well.
    proteins[0].tokens[5:8] = MASK
    with torch.no_grad():
        difference = relative(model(ProteinBatch.of(proteins)), reference_esm2(model, proteins))
    return FileCheck(settings, count(model), sha256, difference, "fair-esm")


def _heads(path: Path, width: int) -> int:
    """What config.json says; of an official file what fair-esm's models of this width have: 20, or 40 from 2,560 on."""
    if path.is_dir():
        heads = _folder_config(path).get("num_attention_heads")
        if not isinstance(heads, int):
            raise CheckpointError(
                f"{path / 'config.json'} does not say num_attention_heads", got=heads, expected="a number"
            )
        return heads
    return 40 if width >= 2560 else 20
