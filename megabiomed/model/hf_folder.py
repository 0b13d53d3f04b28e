"""The weights of a Hugging Face folder as a source, and whether they are those of a configuration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from megabiomed.checkpoint.logical import Box
from megabiomed.checkpoint.pickled import PickledFiles
from megabiomed.checkpoint.tensorfile import TensorFiles
from megabiomed.config.models import ModelConfig
from megabiomed.ground.errors import CheckpointError
from megabiomed.ground.files import inside, read_json
from megabiomed.model.hf_config import CONFIG, model_config_from_hf, read_hf_config
from megabiomed.model.registry import architecture_of

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = "pytorch_model.bin"
PICKLED_INDEX = "pytorch_model.bin.index.json"
TIED = {"lm_head.weight": "model.embed_tokens.weight"}
"""Where transformers keeps a tensor that a folder with `tie_word_embeddings` leaves out."""
_READABLE = ("F32", "BF16", "F16")


class HuggingFaceSource:
    """The weights of a Hugging Face folder as fp32; implements `TensorSource`. Optimizer moments read as zeros.

    A folder with tied embeddings and no head of its own answers for `lm_head.weight` with the embedding. What is stored is
    taken as transformers takes it: a head that is stored counts, whatever config.json says; safetensors count before
    pickled weights that lie beside them, and of each kind one file of everything before an index.

    Args:
        path: folder with model.safetensors, or with several of them and model.safetensors.index.json; or with
            pytorch_model.bin, or several of them and pytorch_model.bin.index.json, which are read without executing them.

    Attributes:
        tied: whether the output head is the embedding.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._files = PickledFiles() if is_pickled(self.path) else TensorFiles()
        self._where = _tensor_files(self.path, self._files.keys)
        declared = bool(read_hf_config(self.path).get("tie_word_embeddings", False))
        self.tied = declared and not TIED.keys() <= self._where.keys()

    def names(self) -> list[str]:
        """Names of the stored tensors, sorted."""
        return sorted(self._where)

    def describe(self, name: str) -> tuple[str, tuple[int, ...]]:
        """Stored element type (`BF16`, ...) and shape of a tensor, from the header alone.

        Raises:
            CheckpointError: the folder has no such tensor.
        """
        return self._files.describe(self._file(self._stored(name)), self._stored(name))

    def read(self, box: Box, kind: str = "param") -> torch.Tensor:
        """Values of one box as fp32, shape `box.shape`; raises as `read_into`."""
        values = torch.empty(box.shape)
        self.read_into(box, values, kind)
        return values

    def read_into(self, box: Box, out: torch.Tensor, kind: str = "param") -> None:
        """Fill `out` with the values of one box; reads only the parts of the file that hold it.

        Raises:
            CheckpointError: the tensor is missing, has another shape or an element type other than fp32, bf16, fp16.
        """
        if kind != "param":
            out.zero_()
            return
        dtype, shape = self.describe(box.name)
        if shape != box.global_shape or dtype not in _READABLE:
            raise CheckpointError(
                f"{box.name} of {self.path} does not fit the model",
                got=f"{dtype} {shape}",
                expected=f"{' or '.join(_READABLE)} {box.global_shape}",
            )
        name = self._stored(box.name)
        part = box.slices_in(Box.whole(box.name, box.global_shape))
        self._files.read_into(self._file(name), name, part, out)

    def _stored(self, name: str) -> str:
        return TIED.get(name, name) if self.tied else name

    def _file(self, name: str) -> Path:
        if name not in self._where:
            raise CheckpointError(
                f"{self.path} has no tensor {name}",
                got=f"{len(self._where)} other tensors",
                do="check that the folder is a complete checkpoint of this depth",
            )
        return self._where[name]


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


def _tensor_files(folder: Path, names: Callable[[Path], list[str]]) -> dict[str, Path]:
    """Which file of a Hugging Face folder holds which tensor.

    Args:
        names: the tensors of one file.
    """
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder} is no Hugging Face model folder", expected=f"{CONFIG} in it")
    single, index = (PICKLED, PICKLED_INDEX) if is_pickled(folder) else (SINGLE, INDEX)
    if (folder / single).is_file():
        file = inside(folder, single)
        return dict.fromkeys(names(file), file)
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


def check_architecture(path: str | Path, config: ModelConfig) -> None:
    """Check from names and shapes alone that a Hugging Face folder holds exactly the model of the configuration.

    Raises:
        CheckpointError: listing the values of config.json that differ, or the first tensor that is missing, unknown or
            of another shape.
    """
    there = model_config_from_hf(path, config.kind, config.max_position_embeddings)
    found, wanted = there.identity(), config.identity()
    # The length of the RoPE table is a choice of the run.
    differ = [name for name in wanted if name != "max_position_embeddings" and found[name] != wanted[name]]
    if differ:
        raise CheckpointError(
            f"{path} holds another model",
            got=", ".join(f"{name} {found[name]}" for name in differ),
            expected=", ".join(f"{wanted[name]}" for name in differ),
            do="set these keys of `model:` to the values of the folder",
        )
    source, shapes = HuggingFaceSource(path), architecture_of(config).shapes
    # Old checkpoints store the rotary table, which every program computes itself.
    unknown = [name for name in source.names() if name not in shapes and not name.endswith("rotary_emb.inv_freq")]
    if unknown:
        raise CheckpointError(
            f"{path} holds tensors that a {config.kind} model does not have",
            got=f"{unknown[0]} (one of {len(unknown)})",
        )
    for name, shape in shapes.items():
        dtype, stored = source.describe(name)
        if stored != shape or dtype not in _READABLE:
            raise CheckpointError(
                f"{name} of {path} does not fit its config.json" if stored != shape
                else f"{name} of {path} has an element type that is not read here",
                got=f"{dtype} {stored}", expected=f"{' or '.join(_READABLE)} {shape}",
                do="take the config.json that belongs to the weights" if stored != shape
                else "convert them: AutoModelForCausalLM.from_pretrained(folder, dtype='bfloat16').save_pretrained(new)",
            )  # fmt: skip
