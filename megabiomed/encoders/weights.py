"""Encoder weights from files, without executing what a pickle might hold."""

from __future__ import annotations

import argparse
import hashlib
import re
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from megabiomed.encoders.esm2.model import Esm2
from megabiomed.encoders.gin.model import Gin
from megabiomed.encoders.lora import LoraLinear, is_lora
from megabiomed.ground.errors import CheckpointError
from megabiomed.ground.files import read_json, sha256_file

State = dict[str, Tensor]
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


def load_gin(model: Gin, path: Path) -> str:
    """Fill a GIN from a pretrain-gnns or GraphMVP state dict; returns the SHA-256 of the file."""
    state = {name.removeprefix("gnn."): value for name, value in read_state(path).items()}
    unused = [name for name in state if name.startswith(("graph_pred_linear", "pool"))]
    _fill(model, {name: value for name, value in state.items() if name not in unused}, path)
    return sha256_file(path)


def load_esm2(model: Esm2, path: Path) -> str:
    """Fill an ESM-2 from an official .pt or a Hugging Face EsmModel folder; returns a SHA-256 of the weights."""
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files:
        raise CheckpointError(f"{path} holds no safetensors", do="give an EsmModel folder or a fair-esm .pt file")
    if path.is_dir():
        _check_esm2_folder(model, path)
    state: State = {}
    for file in files:
        state.update(read_state(file))
    state = {key: value for name, value in state.items() if (key := esm2_key(name)) is not None}
    frequencies = [state.pop(name) for name in list(state) if name.endswith("inv_freq")]
    if frequencies:
        model.inv_freq = frequencies[0].float().cpu()
    _fill(model, state, path)
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


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over names, shapes and fp32 values of a module without its LoRA: which weights these are."""
    return _hash_of({name: value for name, value in model.state_dict().items() if not is_lora(f".{name}")}).hexdigest()


def function_hash(model: Esm2) -> str:
    """SHA-256 over all that the rows of a protein depend on: weights, LoRA and its scale, heads, rotary frequencies."""
    digest = _hash_of({**model.state_dict(), "inv_freq": model.inv_freq})
    scales = {name: module.scale for name, module in model.named_modules() if isinstance(module, LoraLinear)}
    digest.update(f"{model.config.num_attention_heads} {sorted(scales.items())}".encode())
    return digest.hexdigest()


def _hash_of(state: State) -> hashlib._Hash:
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        if value.is_floating_point():
            digest.update(f"{name}{tuple(value.shape)}".encode())
            digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest


def read_state(path: Path) -> State:
    """Tensors of a file, whatever it calls them; a pickle may hold nothing but tensors and an argparse.Namespace."""
    if not path.is_file():
        raise CheckpointError(f"{path} is not there", do="give the path of the encoder's weights")
    if path.suffix == ".safetensors":
        return load_file(path)
    try:
        # Official ESM-2 files hold an argparse.Namespace beside the tensors; nothing else may be built.
        with torch.serialization.safe_globals([argparse.Namespace]):
            held = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read without executing it", got=str(error).splitlines()[0][:200], expected="tensors only"
        ) from None
    for key in ("model", "state_dict", "model_state_dict"):
        held = held[key] if isinstance(held, dict) and isinstance(held.get(key), dict) else held
    return {name: value for name, value in held.items() if isinstance(value, Tensor)}


def _fill(model: nn.Module, state: State, path: Path) -> None:
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for name in ("num_batches_tracked",):
        wanted = {key: shape for key, shape in wanted.items() if not key.endswith(name)}
        state = {key: value for key, value in state.items() if not key.endswith(name)}
    missing, unknown = sorted(set(wanted) - set(state)), sorted(set(state) - set(wanted))
    wrong = [key for key in wanted if key in state and tuple(state[key].shape) != wanted[key]]
    if missing or unknown or wrong:
        raise CheckpointError(
            f"{path} does not fit the encoder",
            got=f"missing {missing[:3]}, unknown {unknown[:3]}, other shape {wrong[:3]}",
            do="set the encoder's num_layers and hidden_size to those of the file",
        )
    model.load_state_dict({name: value.float() for name, value in state.items()}, strict=False)


def _check_esm2_folder(model: Esm2, folder: Path) -> None:
    held = read_json(folder / "config.json")
    if held.get("position_embedding_type") != "rotary" or not held.get("token_dropout", False):
        raise CheckpointError(
            f"{folder} is no ESM-2",
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
