"""Which file of a Hugging Face folder holds which tensor, and which tensor is another one, as transformers takes them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from megabiomed.checkpoint.pickled import PickledFiles
from megabiomed.checkpoint.tensorfile import TensorFiles
from megabiomed.ground.errors import CheckpointError
from megabiomed.ground.files import inside, read_json

CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = "pytorch_model.bin"
PICKLED_INDEX = "pytorch_model.bin.index.json"
ADAPTER = "adapter_config.json"
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
WeightFiles = TensorFiles | PickledFiles
_ROWS = 4096  # of a matrix that are compared at once


def read_hf_config(folder: Path) -> dict[str, Any]:
    """All of the config.json of a Hugging Face folder.

    Raises:
        FileError: it is missing, damaged, or a link that leads out of the folder.
    """
    return read_json(inside(folder, CONFIG), dict)


def is_pickled(folder: Path) -> bool:
    """Whether the weights of a Hugging Face folder are those of pytorch_model.bin; safetensors beside it would count."""
    held = [name for name in (SINGLE, INDEX, PICKLED, PICKLED_INDEX) if (folder / name).is_file()]
    return bool(held) and held[0] in (PICKLED, PICKLED_INDEX)


def weight_files(folder: Path) -> list[Path]:
    """Files by whose content a Hugging Face folder is recognised, sorted: its safetensors, or its pickled weights."""
    if not is_pickled(folder):
        return sorted(folder.glob("*.safetensors"))
    if (folder / PICKLED).is_file():
        return [folder / PICKLED]
    return sorted({folder / name for name in _weight_map(folder, PICKLED_INDEX).values()})


def open_files(folder: Path) -> WeightFiles:
    """What reads the weights of a Hugging Face folder."""
    return PickledFiles() if is_pickled(folder) else TensorFiles()


def tensor_files(folder: Path, files: WeightFiles) -> dict[str, Path]:
    """Which file of a Hugging Face folder holds which tensor.

    Args:
        files: reads the names of one file.

    Raises:
        CheckpointError: it has no model, no weights, or an adapter beside them; a file is missing or damaged.
    """
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder} is no Hugging Face model folder", expected=f"{CONFIG} in it")
    if (folder / ADAPTER).is_file():
        # transformers takes the base model that it names, and the adapter on top: neither is what lies here.
        raise CheckpointError(
            f"{folder} holds an adapter beside a whole model: transformers loads the adapter and the model that it names",
            got=ADAPTER,
            do=f"move {ADAPTER} and its weights to a folder of their own, or merge them (peft: merge_and_unload)",
        )
    single, index = (PICKLED, PICKLED_INDEX) if is_pickled(folder) else (SINGLE, INDEX)
    if (folder / single).is_file():
        file = inside(folder, single)
        return dict.fromkeys(files.keys(file), file)
    if (folder / index).is_file():
        return {name: inside(folder, file) for name, file in _weight_map(folder, index).items()}
    raise CheckpointError(
        f"{folder} holds no weights",
        got=next((f"{path.name}" for path in sorted([*folder.glob("*.bin"), *folder.glob("*.pt*")])), None),
        expected=f"{SINGLE}, {INDEX}, {PICKLED} or {PICKLED_INDEX}",
    )


def _weight_map(folder: Path, index: str) -> dict[str, str]:
    held = read_json(inside(folder, index), dict).get("weight_map")
    if not isinstance(held, dict) or not all(isinstance(file, str) for file in held.values()):
        raise CheckpointError(f"{folder / index} is damaged", expected="a weight_map from tensors to files")
    return held


def tied_tensors(folder: Path, where: Mapping[str, Path]) -> dict[str, str]:
    """{tensor: the stored one that it is} of a folder that ties its output head to its embedding; empty for others.

    config.json asks for it with `tie_word_embeddings`. As in transformers 5 that holds unless both are stored and differ, and
    where the head alone is stored the embedding is taken from it.

    Args:
        where: the file of each stored tensor.
    """
    if not read_hf_config(folder).get("tie_word_embeddings", False):
        return {}
    if HEAD not in where:
        return {HEAD: EMBEDDING}
    if EMBEDDING not in where:
        return {EMBEDDING: HEAD}
    stamps = tuple((path, path.stat().st_mtime_ns) for path in (where[HEAD], where[EMBEDDING]))
    return {HEAD: EMBEDDING} if _equal(*stamps) else {}


def ties_its_head(folder: Path) -> bool:
    """Whether transformers would tie output head and embedding of a folder; without readable weights what config.json says."""
    if not read_hf_config(folder).get("tie_word_embeddings", False):
        return False
    try:
        where = tensor_files(folder, open_files(folder))
    except CheckpointError:
        return True  # whoever reads the weights will say what is wrong with them
    return bool(tied_tensors(folder, where))


@lru_cache(maxsize=16)
def _equal(head: tuple[Path, int], embedding: tuple[Path, int]) -> bool:
    """Whether the stored head and embedding have the same values; the times of change tell other files of the same name."""
    files = open_files(head[0].parent)
    (dtype, shape), other = files.describe(head[0], HEAD), files.describe(embedding[0], EMBEDDING)
    if (dtype, shape) != other:
        return False
    for low in range(0, shape[0], _ROWS):
        part = (slice(low, min(low + _ROWS, shape[0])), *(slice(0, size) for size in shape[1:]))
        left, right = torch.empty(part[0].stop - low, *shape[1:]), torch.empty(part[0].stop - low, *shape[1:])
        files.read_into(head[0], HEAD, part, left)
        files.read_into(embedding[0], EMBEDDING, part, right)
        if not torch.equal(left, right):
            return False
    return True
