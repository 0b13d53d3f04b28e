"""Adapters as a folder of the peft library: adapter_config.json, adapter_model.safetensors and the model card."""

from __future__ import annotations

from functools import partial
from math import prod
from pathlib import Path

import torch

from megabiomed.checkpoint.logical import Box
from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.checkpoint.tensorfile import LazyTensor, write_tensors
from megabiomed.config.models import stored_model
from megabiomed.ground.errors import CheckpointError
from megabiomed.ground.files import new_folder, write_json
from megabiomed.model.card import write_card
from megabiomed.model.merged import adapters_of
from megabiomed.model.registry import architecture_of

_PREFIX = "base_model.model."  # of every name in peft's files
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def export_adapter(checkpoint: Checkpoint, folder: Path, base: str | None = None) -> int:
    """Write the adapters in fp32; the folder appears when it is complete. Returns the number of parameters.

    Args:
        base: what peft shall load the adapters onto; None names what the run began with, where that is a Hugging Face
            folder.

    Raises:
        CheckpointError: the checkpoint has no adapters, or the folder is there.
    """
    lora = adapters_of(checkpoint)
    if lora is None:
        raise CheckpointError(
            f"{checkpoint.path} holds no adapters", do="export the whole model with `megabiomed checkpoint export-hf`"
        )
    if folder.exists():
        raise CheckpointError(f"{folder} already exists", do="choose another folder or delete this one")
    model = stored_model(checkpoint.architecture, str(checkpoint.path))
    architecture = architecture_of(model)
    shapes = architecture.trained_shapes(lora)
    # Names of one layer are enough: peft looks for them in all layers.
    modules = [tensor.module.rpartition(".")[2] for tensor in architecture.adapted(lora) if tensor.layer == 0]
    began = checkpoint.language_model
    with new_folder(folder) as temporary:
        tensors = [
            LazyTensor(_PREFIX + name, torch.float32, shape, partial(checkpoint.read, Box.whole(name, shape)))
            for name, shape in shapes.items()
        ]
        write_tensors(temporary / WEIGHTS, tensors, {"format": "pt"})
        values = {
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "inference_mode": True, "r": lora.rank,
            "lora_alpha": lora.alpha, "lora_dropout": lora.dropout, "bias": "none", "fan_in_fan_out": False,
            "target_modules": modules, "modules_to_save": None,
            "base_model_name_or_path": base or (began.path if began.kind == "huggingface" else None),
        }  # fmt: skip
        write_json(temporary / CONFIG, values)
        write_card(temporary, folder.name, checkpoint, library="peft")
    return sum(map(prod, shapes.values()))
