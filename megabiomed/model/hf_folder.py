"""The weights of a Hugging Face folder as a source, and whether they are those of a configuration."""

from __future__ import annotations

from pathlib import Path

import torch

from megabiomed.checkpoint.logical import Box
from megabiomed.config.models import ModelConfig
from megabiomed.ground.errors import CheckpointError
from megabiomed.model.hf_config import model_config_from_hf
from megabiomed.model.hf_files import EMBEDDING, HEAD, open_files, tensor_files, tied_tensors
from megabiomed.model.registry import architecture_of

_READABLE = ("F32", "BF16", "F16")


class HuggingFaceSource:
    """The weights of a Hugging Face folder as fp32; implements `TensorSource`. Optimizer moments read as zeros.

    A folder that ties its head to its embedding answers for both, whichever is stored. What is stored is taken as transformers
    takes it: a head with values of its own counts, whatever config.json says; safetensors count before pickled weights that
    lie beside them, and of each kind one file of everything before an index.

    Args:
        path: folder with model.safetensors, or with several of them and model.safetensors.index.json; or with
            pytorch_model.bin, or several of them and pytorch_model.bin.index.json, which are read without executing them.

    Attributes:
        tied: whether the output head is the embedding.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._files = open_files(self.path)
        self._where = tensor_files(self.path, self._files)
        self._same = tied_tensors(self.path, self._where)
        self.tied = bool(self._same)

    def names(self) -> list[str]:
        """Names of the stored tensors, sorted; of a tied pair the embedding alone."""
        return sorted({EMBEDDING if self.tied and name == HEAD else name for name in self._where})

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
        return self._same.get(name, name)

    def _file(self, name: str) -> Path:
        if name not in self._where:
            raise CheckpointError(
                f"{self.path} has no tensor {name}",
                got=f"{len(self._where)} other tensors",
                do="check that the folder is a complete checkpoint of this depth",
            )
        return self._where[name]


def check_architecture(path: str | Path, config: ModelConfig) -> None:
    """Check from names and shapes alone that a Hugging Face folder holds exactly the model of the configuration.

    Raises:
        CheckpointError: listing the values of config.json that differ, or the first tensor that is missing, unknown or
            of another shape.
    """
    there = model_config_from_hf(path, config.kind, config.max_position_embeddings)
    found, wanted = there.identity(), config.identity()
    # The length of the RoPE table is a choice of the run, and so is training a tied head apart.
    chosen = {"max_position_embeddings"} | ({"tie_word_embeddings"} if there.tie_word_embeddings else set())
    differ = [name for name in wanted if name not in chosen and found[name] != wanted[name]]
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
