"""A Hugging Face folder seen with a larger tokenizer: each new row is the mean of the rows of the old pieces it is made of.

Both the embedding and the output head grow (Hewitt 2021, "Initializing new word embeddings"; the mean of the parts here).
Nothing is written: the rows are computed when they are read, so every rank of any topology reads its own part only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from megabiomed.checkpoint.logical import Box
from megabiomed.config.models import ModelConfig
from megabiomed.ground.errors import TokenizerError
from megabiomed.model.hf_config import model_config_from_hf
from megabiomed.model.hf_folder import HuggingFaceSource, check_architecture
from megabiomed.model.reference import StoredTensors
from megabiomed.model.registry import architecture_of
from megabiomed.tokenizer.companions import unread_tokens
from megabiomed.tokenizer.files import open_if_any, open_in, open_tokenizer

MORE_PIECES = (
    "put the tokenizer there that the model was trained with, without tokens that were added to it later (in tokenizer.json: "
    "added_tokens with ids beyond the rows)"
)
_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def open_folder(model: ModelConfig, tokenizer: Path) -> tuple[HuggingFaceSource, StoredTensors]:
    """The weights of `model.init_from` with rows for all pieces of a tokenizer, by two independent readers.

    New pieces take the ids behind those of the folder's own tokenizer: rows that the folder has beyond its pieces (a padded
    vocabulary), and then further ones.

    Raises:
        CheckpointError: the folder holds another model.
        TokenizerError: the tokenizer has more pieces than the folder's and is no extension of it, or the model's vocabulary
            does not fit; the folder's own tokenizer has pieces without a row.
    """
    assert model.init_from is not None
    folder = model.init_from
    old = model_config_from_hf(folder, model.kind, model.max_position_embeddings).vocab_size
    grows = model.vocab_size > old
    check_architecture(folder, model.model_copy(update={"vocab_size": old}) if grows else model)
    first, parts = rows_of_new_pieces(folder, tokenizer) if grows else new_pieces(folder, tokenizer)
    if not parts and not grows:
        return HuggingFaceSource(folder), StoredTensors(folder)
    if first > old:
        raise TokenizerError(
            f"the tokenizer in {folder} does not fit its weights", got=f"{first} pieces and {old} rows", do=MORE_PIECES
        )
    wanted = max(old, first + len(parts))
    if model.vocab_size != wanted:
        raise TokenizerError(
            f"{tokenizer} does not fit the rows of {folder}",
            got=f"model.vocab_size = {model.vocab_size}; {old} rows, {first} pieces and {len(parts)} new ones",
            expected=f"model.vocab_size = {wanted}", do="set model.vocab_size",
        )  # fmt: skip
    names = frozenset(t.name for t in architecture_of(model).tensors.values() if t.cut == "vocabulary")
    rows = dict(enumerate(parts, start=first))
    return ExtendedSource(folder, names, old, rows), ExtendedTensors(folder, names, rows)


def new_pieces(folder: Path, tokenizer: Path) -> tuple[int, list[list[int]]]:
    """As `rows_of_new_pieces`; none where the folder has no tokenizer, or one with as many pieces."""
    own = open_if_any(folder)
    if own is None or open_tokenizer(tokenizer).vocab_size <= own.vocab_size:
        return 0, []
    return rows_of_new_pieces(folder, tokenizer)


def rows_of_new_pieces(folder: Path, tokenizer: Path) -> tuple[int, list[list[int]]]:
    """The id of the first piece that a tokenizer has beyond that of a folder, and the old ids of the text of each.

    Raises:
        TokenizerError: the folder has no tokenizer, which says what is new, or the other one is not an extension of it.
    """
    own = open_in(folder)
    return own.vocab_size, open_tokenizer(tokenizer).parts_of_new_pieces(own)


def notes_on_tokenizer(folder: Path, rows: int) -> list[str]:
    """What the tokenizer of a Hugging Face folder and its model do not have in common, one sentence each.

    Args:
        rows: of the model, its `vocab_size`.
    """
    own = open_if_any(folder)
    if own is None:
        return []
    notes = []
    if own.vocab_size > rows:
        notes.append(
            f"the tokenizer has {own.vocab_size} pieces and the model {rows} rows: data and texts need another one"
        )
    if unread := unread_tokens(own.path, own.vocab_size):
        texts = ", ".join([*map(repr, list(unread.values())[:3]), *(["..."] if len(unread) > 3 else [])])
        notes.append(
            f"{len(unread)} tokens ({texts}) that files beside {own.path.name} add are not read, and exports will not have "
            "them; AutoTokenizer.from_pretrained(folder).save_pretrained(folder) writes the tokenizer.json that has them"
        )
    return notes


class ExtendedSource(HuggingFaceSource):
    """The weights of a Hugging Face folder for a tokenizer that has grown.

    Args:
        path: the folder.
        names: the tensors with a row for each piece.
        old_size: rows of the folder.
        new_rows: by the number of each new row, the rows whose mean it is, rounded to the folder's type; all rows from
            `old_size` on are new.
    """

    def __init__(
        self, path: str | Path, names: frozenset[str], old_size: int, new_rows: Mapping[int, list[int]]
    ) -> None:
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
        for number in (number for number in self._new_rows if low <= number < high):
            out[number - low] = self._mean(box, shape, self._new_rows[number]).to(dtype)

    def _mean(self, box: Box, shape: tuple[int, ...], rows: list[int]) -> torch.Tensor:
        """Of the columns of a box in some rows of the folder, in fp64."""
        held = torch.empty(len(rows), *box.shape[1:])
        for row, values in zip(rows, held):
            part = Box(box.name, shape, (row, *box.offset[1:]), (1, *box.shape[1:]))
            super().read_into(part, values[None])
        return held.double().mean(0)


class ExtendedTensors(StoredTensors):
    """What a certificate compares with: the folder through the safetensors library, and the means computed from that."""

    def __init__(self, folder: Path, names: frozenset[str], new_rows: Mapping[int, list[int]]) -> None:
        super().__init__(folder)
        self._grown, self._new_rows = names, new_rows

    def raw(self, name: str, part: tuple[slice, ...] | slice = slice(None)) -> torch.Tensor:
        """A tensor, or a rectangular part of it, in the type in which it is stored."""
        if name not in self._grown:
            return super().raw(name, part)
        stored = super().raw(name)
        size = max(len(stored), *(number + 1 for number in self._new_rows))
        grown = torch.cat([stored, stored.new_zeros(size - len(stored), *stored.shape[1:])])
        for number, rows in self._new_rows.items():
            grown[number] = stored[rows].double().mean(0).to(stored.dtype)
        return grown[part]
