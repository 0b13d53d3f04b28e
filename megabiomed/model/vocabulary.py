"""A Hugging Face folder seen with a larger vocabulary: each new row is the mean of the rows of the old pieces it is made of.

Both the embedding and the output head grow (Hewitt 2021, "Initializing new word embeddings"; the mean of the parts here).
Nothing is written: the rows are computed when they are read, so every rank of any topology reads its own part only.
"""

from __future__ import annotations

from pathlib import Path

import torch

from megabiomed.checkpoint.logical import Box
from megabiomed.config.models import ModelConfig
from megabiomed.ground.errors import TokenizerError
from megabiomed.model.hf_config import model_config_from_hf
from megabiomed.model.hf_folder import HuggingFaceSource, check_architecture
from megabiomed.model.reference import StoredTensors
from megabiomed.model.registry import architecture_of
from megabiomed.tokenizer.files import open_in, open_tokenizer

_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def open_folder(model: ModelConfig, tokenizer: Path) -> tuple[HuggingFaceSource, StoredTensors]:
    """The weights of `model.init_from`, grown where the model's vocabulary is larger, by two independent readers.

    Raises:
        CheckpointError: the folder holds another model.
        TokenizerError: the vocabulary is larger and the tokenizer is no extension of the folder's.
    """
    assert model.init_from is not None
    folder = model.init_from
    old = model_config_from_hf(folder, model.kind, model.max_position_embeddings).vocab_size
    if model.vocab_size <= old:
        check_architecture(folder, model)
        return HuggingFaceSource(folder), StoredTensors(folder)
    check_architecture(folder, model.model_copy(update={"vocab_size": old}))
    rows = rows_of_new_pieces(folder, tokenizer)
    if model.vocab_size != old + len(rows):
        raise TokenizerError(
            f"{tokenizer} does not fit the rows of {folder}", got=f"{old} rows and {len(rows)} new pieces",
            expected=f"model.vocab_size = {old + len(rows)}", do="check the folder: rows beyond its tokenizer are in the way",
        )  # fmt: skip
    names = frozenset(t.name for t in architecture_of(model).tensors.values() if t.cut == "vocabulary")
    return ExtendedSource(folder, names, old, rows), ExtendedTensors(folder, names, rows)


def rows_of_new_pieces(folder: Path, tokenizer: Path) -> list[list[int]]:
    """For each piece that a tokenizer has beyond that of the folder, the old ids of its text; empty when it has none.

    Raises:
        TokenizerError: the folder has no tokenizer, which says what is new, or the other one is not an extension of it.
    """
    return open_tokenizer(tokenizer).parts_of_new_pieces(open_in(folder))


class ExtendedSource(HuggingFaceSource):
    """The weights of a Hugging Face folder for a model whose vocabulary has grown.

    Args:
        path: the folder.
        names: the tensors with a row for each piece.
        old_size: rows of the folder.
        new_rows: for each further row, the rows whose mean it is, rounded to the folder's type.
    """

    def __init__(self, path: str | Path, names: frozenset[str], old_size: int, new_rows: list[list[int]]) -> None:
        super().__init__(path)
        self._grown = names
        self._old_size = old_size
        self._new_rows = new_rows

    def read_into(self, box: Box, out: torch.Tensor, kind: str = "param") -> None:
        """Fill `out` with the values of one box; see `HuggingFaceSource.read_into`."""
        if kind != "param" or box.name not in self._grown:
            super().read_into(box, out, kind)
            return
        low, high = box.offset[0], box.offset[0] + box.shape[0]
        shape = (self._old_size, *box.global_shape[1:])
        if low < self._old_size:
            rows = min(high, self._old_size) - low
            part = Box(box.name, shape, box.offset, (rows, *box.shape[1:]))
            super().read_into(part, out[:rows], kind)
        dtype = _DTYPES[self.describe(box.name)[0]]
        for number in range(max(low, self._old_size), high):
            parts = [
                self.read(Box(box.name, shape, (row, *box.offset[1:]), (1, *box.shape[1:])))
                for row in self._new_rows[number - self._old_size]
            ]
            out[number - low] = torch.cat(parts).double().mean(0).to(dtype)


class ExtendedTensors(StoredTensors):
    """What a certificate compares with: the folder through the safetensors library, and the means computed from that."""

    def __init__(self, folder: Path, names: frozenset[str], new_rows: list[list[int]]) -> None:
        super().__init__(folder)
        self._grown, self._new_rows = names, new_rows

    def raw(self, name: str, part: tuple[slice, ...] | slice = slice(None)) -> torch.Tensor:
        """A tensor, or a rectangular part of it, in the type in which it is stored."""
        if name not in self._grown:
            return super().raw(name, part)
        stored = super().raw(name)
        means = [stored[rows].double().mean(0).to(stored.dtype) for rows in self._new_rows]
        return torch.cat([stored, torch.stack(means)])[part]
