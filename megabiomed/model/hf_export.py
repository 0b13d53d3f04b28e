"""Export to Hugging Face folders, one tensor at a time.

With a certificate, a folder gets its name only when it was shown to be the same model.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from pathlib import Path
from typing import Literal

import torch

from megabiomed.checkpoint.logical import Box, TensorSource
from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.checkpoint.tensorfile import LazyTensor, write_tensors
from megabiomed.config.models import ModelConfig
from megabiomed.ground.errors import CheckpointError
from megabiomed.ground.files import new_folder, write_json
from megabiomed.model.card import write_card
from megabiomed.model.certificate import CERTIFICATE, Certificate, certify
from megabiomed.model.hf_config import hf_config
from megabiomed.model.hf_files import INDEX, SINGLE
from megabiomed.model.registry import architecture_of
from megabiomed.tokenizer.files import open_tokenizer

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def export_hf(
    source: TensorSource,
    config: ModelConfig,
    folder: str | Path,
    dtype: Literal["bf16", "fp16", "fp32"] = "bf16",
    tokenizer: Path | None = None,
    max_shard_bytes: int = 5_000_000_000,
    inspect: Callable[[Path], None] = lambda folder: None,
    tick: Callable[[], None] = lambda: None,
) -> Path:
    """Write a folder that `transformers` loads, with one tensor in memory at a time.

    The folder appears under its name only when it is complete. One file is named model.safetensors; several follow the
    index convention of Hugging Face.

    Args:
        tokenizer: file of the tokenizer to add, together with the files that transformers reads.
        max_shard_bytes: limit of one weight file; a single tensor larger than this has a file of its own.
        inspect: called with the complete folder while it still has a temporary name; what it raises undoes the export.
        tick: called for each tensor.

    Raises:
        CheckpointError: the target exists, or the source lacks a tensor.
        TokenizerError: the tokenizer does not fit the vocabulary, or cannot be converted exactly.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} already exists", do="choose another folder or delete this one")
    with new_folder(folder) as temporary:
        architecture = architecture_of(config)
        opened = open_tokenizer(tokenizer) if tokenizer else None
        # Those of Llama 2, where no tokenizer says others.
        bos, eos = (opened.bos_id, opened.eos_id) if opened else (1, 2)
        said = opened.companions.generation if opened else {}
        if opened:
            opened.write_hugging_face(temporary, config.vocab_size, config.max_position_embeddings)
        _write_weights(source, plan_shards(config, dtype, max_shard_bytes), temporary, DTYPES[dtype], tick)
        write_json(
            temporary / "config.json", hf_config(architecture, str(DTYPES[dtype]).removeprefix("torch."), bos, eos)
        )
        write_json(temporary / "generation_config.json", {"bos_token_id": bos, "eos_token_id": eos, **said})
        inspect(temporary)
    return folder


def plan_shards(config: ModelConfig, dtype: str, max_shard_bytes: int) -> dict[str, dict[str, tuple[int, ...]]]:
    """Which tensors, with their shapes, an export puts into which file."""
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    filled = 0
    for name, shape in architecture_of(config).shapes.items():
        size = prod(shape) * DTYPES[dtype].itemsize
        if shards[-1] and filled + size > max_shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = shape
        filled += size
    if len(shards) == 1:
        return {SINGLE: shards[0]}
    return {f"model-{i:05d}-of-{len(shards):05d}.safetensors": shard for i, shard in enumerate(shards, start=1)}


def _write_weights(
    source: TensorSource,
    plan: dict[str, dict[str, tuple[int, ...]]],
    folder: Path,
    dtype: torch.dtype,
    tick: Callable[[], None],
) -> None:
    total = 0
    for file, shapes in plan.items():
        tensors = [
            LazyTensor(name, dtype, shape, partial(_load, source, Box.whole(name, shape), dtype, tick))
            for name, shape in shapes.items()
        ]
        write_tensors(folder / file, tensors, {"format": "pt"})
        total += sum(tensor.nbytes for tensor in tensors)
    if len(plan) > 1:
        weight_map = {name: file for file, shapes in plan.items() for name in shapes}
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})


def _load(source: TensorSource, box: Box, dtype: torch.dtype, tick: Callable[[], None]) -> torch.Tensor:
    tick()
    return source.read(box).to(dtype)


def export_certified(
    checkpoint: Checkpoint,
    source: TensorSource,
    model: ModelConfig,
    folder: Path,
    dtype: Literal["bf16", "fp16", "fp32"],
    tokenizer: bool,
    max_shard_bytes: int,
    allow_uncertified: bool = False,
    tick: Callable[[], None] = lambda: None,
) -> Certificate:
    """Export a checkpoint of any topology, certify the folder and store certificate.json and the model card in it.

    Args:
        source: the whole model of the checkpoint (`start_from.whole_model`).
        tokenizer: add the tokenizer that is stored in the checkpoint.
        allow_uncertified: keep a folder that is not the same model; its certificate then says so.
        tick: called for each tensor and 2 * num_hidden_layers times more.

    Raises:
        CheckpointError: the folder is not the same model; nothing is left of it.
    """
    held: list[Certificate] = []

    def inspect(temporary: Path) -> None:
        found = certify(temporary, source, model, "export", str(checkpoint.path), checkpoint.tokenizer, tick)
        # The name that the folder will have, not its temporary one.
        found.folder = str(folder)
        if not allow_uncertified:
            try:
                found.check()
            except CheckpointError as error:
                raise CheckpointError(
                    error.what, got=error.got, do="--allow-uncertified writes it all the same"
                ) from None
        found.store(temporary / CERTIFICATE)
        write_card(temporary, folder.name, checkpoint, found)
        held.append(found)

    stored = checkpoint.tokenizer if tokenizer else None
    export_hf(source, model, folder, dtype, stored, max_shard_bytes, inspect, tick)
    return held[0]
