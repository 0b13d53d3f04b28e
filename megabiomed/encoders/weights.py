"""Encoder weights from files, without executing what a pickle might hold."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from megabiomed.checkpoint.pickled import load_pickled
from megabiomed.encoders.families import family_of
from megabiomed.encoders.lora import LoraLinear, is_lora
from megabiomed.ground.errors import CheckpointError
from megabiomed.ground.files import inside

State = dict[str, Tensor]


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over names, shapes and fp32 values of a module without its LoRA: which weights these are."""
    return hash_of({name: value for name, value in model.state_dict().items() if not is_lora(f".{name}")}).hexdigest()


def function_hash(model: nn.Module, constants: Mapping[str, Tensor], settings: str) -> str:
    """SHA-256 over all that an encoder's rows depend on: weights, LoRA and its scale, constants and settings."""
    digest = hash_of({**model.state_dict(), **constants})
    scales = {name: module.scale for name, module in model.named_modules() if isinstance(module, LoraLinear)}
    digest.update(f"{settings} {sorted(scales.items())}".encode())
    return digest.hexdigest()


def hash_of(state: State) -> hashlib._Hash:
    """SHA-256 over names, shapes and fp32 values of the floating-point tensors."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        if value.is_floating_point():
            digest.update(f"{name}{tuple(value.shape)}".encode())
            digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest


def read_state(path: Path) -> State:
    """Tensors of a file, whatever it calls them; a pickle may hold nothing but tensors and an argparse.Namespace.

    Raises:
        CheckpointError: there is no such file, it is damaged, or it holds other objects.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is not there", do="give the path of the encoder's weights")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise CheckpointError(f"{path} is damaged", got=error, do="get a fresh copy of the file") from None
    # Official ESM-2 files hold an argparse.Namespace beside the tensors; nothing else may be built.
    held = load_pickled(path, [argparse.Namespace])
    for key in ("model", "state_dict", "model_state_dict"):
        held = held[key] if isinstance(held, dict) and isinstance(held.get(key), dict) else held
    if not isinstance(held, dict):
        raise CheckpointError(f"{path} holds no tensors by name", got=type(held).__name__, expected="a state dict")
    # DataParallel puts `module.` before every name.
    return {str(name).removeprefix("module."): value for name, value in held.items() if isinstance(value, Tensor)}


def weight_files(path: Path) -> list[Path]:
    """The file itself, or those of a Hugging Face folder: its safetensors, or else its pytorch_model*.bin."""
    if not path.is_dir():
        return [path]
    names = sorted(path.glob("*.safetensors")) or sorted(path.glob("pytorch_model*.bin"))
    return [inside(path, file.name) for file in names]


def require_family(names: Iterable[str], family: str, path: Path) -> None:
    """Refuse with a `CheckpointError` a file whose tensors are those of another network.

    Args:
        names: of the tensors as the file has them.
        family: what the file has to hold, in the words of `families`.
    """
    found = family_of(names)
    if found not in (family, None):
        raise CheckpointError(f"{path} holds other weights", got=found, expected=family, do="give another file")


def fill(model: nn.Module, state: State, path: Path) -> None:
    """Copy tensors of the same names into a module, as fp32.

    Raises:
        CheckpointError: one is missing, unknown, or of another shape.
    """
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    # BatchNorm's counter of batches: some files lack it, and statistics are never updated here.
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
    # What is missing was refused above; strict would ask for the counters.
    model.load_state_dict({name: value.float() for name, value in state.items()}, strict=False)
