"""What the product asks of a tokenizer. One implementation today: SentencePiece (sentencepiece_bpe.py)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from megabiomed.ground.errors import TokenizerError
from megabiomed.ground.files import sha256_file


class Tokenizer(ABC):
    """Text to token ids and back.

    Attributes:
        path: the file.
        vocab_size: number of pieces.
        bos_id, eos_id: ids that begin and end a text.
    """

    path: Path
    vocab_size: int
    bos_id: int
    eos_id: int

    @cached_property
    def sha256(self) -> str:
        """Hash of the file: what stores and checkpoints remember of it."""
        return sha256_file(self.path)

    def check_same(self, what: object, sha256: str, do: str) -> None:
        """Refuse data that another tokenizer made.

        Args:
            what: the data, for the message.
            sha256: of the tokenizer that made them.
            do: what to do about it.

        Raises:
            TokenizerError: it was another one.
        """
        if sha256 != self.sha256:
            raise TokenizerError(
                f"{what} was made with another tokenizer than {self.path}",
                got=sha256[:12], expected=self.sha256[:12], do=do,
            )  # fmt: skip

    @abstractmethod
    def encode(self, text: str, bos: bool = False, eos: bool = False) -> list[int]:
        """Token ids of a text."""

    @abstractmethod
    def decode(self, ids: list[int]) -> str:
        """Text of token ids; special tokens vanish, and so do ids beyond the pieces (rows of a padded vocabulary)."""

    def encode_documents(self, texts: Iterable[str], dtype: type[np.integer[Any]]) -> list[bytes]:
        """BOS + tokens + EOS of several texts, as bytes of ids of this type."""
        return [np.array(self.encode(text, bos=True, eos=True), dtype).tobytes() for text in texts]

    @abstractmethod
    def write_hugging_face(self, folder: Path, vocab_size: int, context: int) -> None:
        """Write the files with which transformers gives the same ids.

        Args:
            vocab_size: rows of the model.
            context: tokens that the model reads at most.

        Raises:
            TokenizerError: it does not fit the model, or cannot be written exactly.
        """

    @abstractmethod
    def parts_of_new_pieces(self, base: Tokenizer) -> list[list[int]]:
        """For each piece that this tokenizer has beyond `base`, the ids in `base` of its text; empty when it has none.

        Raises:
            TokenizerError: this is not an extension of `base`.
        """
