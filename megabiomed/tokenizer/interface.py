"""What the product asks of a tokenizer: SentencePiece (sentencepiece_bpe.py) or a tokenizer.json (hugging_face.py)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from megabiomed.ground.errors import TokenizerError
from megabiomed.ground.files import sha256_file

if TYPE_CHECKING:
    from megabiomed.tokenizer.chat_template import ChatTemplate
    from megabiomed.tokenizer.companions import Companions


class ControlToken(NamedTuple):
    """A token that only the product may write, never the text of a user.

    Attributes:
        special: decoding leaves it out.
        lstrip, rstrip: it takes the white space before or behind it.
    """

    id: int
    special: bool = True
    lstrip: bool = False
    rstrip: bool = False


class Tokenizer(ABC):
    """Text to token ids and back.

    Attributes:
        path: the file.
        vocab_size: every id is below it; a model may have more rows.
        bos_id: begins a text; None where the model's texts begin without a token of their own.
        eos_id: ends a text.
    """

    path: Path
    vocab_size: int
    bos_id: int | None
    eos_id: int

    @cached_property
    def sha256(self) -> str:
        """What stores and checkpoints remember of it: a hash that changes when texts get other ids."""
        return sha256_file(self.path)

    @property
    def start(self) -> list[int]:
        """The ids before the first one of a text: BOS, or none."""
        return [] if self.bos_id is None else [self.bos_id]

    @cached_property
    def companions(self) -> Companions:
        """What the files beside it say."""
        from megabiomed.tokenizer.companions import read_companions

        return read_companions(self.path)

    @property
    @abstractmethod
    def control_tokens(self) -> Mapping[str, ControlToken]:
        """Control tokens by their text."""

    @cached_property
    def chat(self) -> ChatTemplate | None:
        """The template of its model's conversations; None where its model was not made for any."""
        from megabiomed.tokenizer.chat_template import ChatTemplate

        written = self.companions.chat_template
        return None if written is None else ChatTemplate(self, written, self.companions.named)

    def require_chat(self) -> ChatTemplate:
        """The same, for those who cannot do without.

        Raises:
            TokenizerError: there is none.
        """
        if self.chat is None:
            raise TokenizerError(
                f"{self.path} has no chat template", expected="chat_template in tokenizer_config.json beside it",
                do="start from a model that was made for conversations, or use another prompt template",
            )  # fmt: skip
        return self.chat

    @cached_property
    def stop_ids(self) -> list[int]:
        """The ids that end an answer: EOS, those of generation_config.json, and the one of the chat template."""
        said = [token for token in self.companions.ids("eos_token_id") if token < self.vocab_size]
        return list(dict.fromkeys([self.eos_id, *said, *(self.chat.end_of_answer[:1] if self.chat else [])]))

    def until_stop(self, ids: list[int]) -> list[int]:
        """Generated ids up to the first one that ends the answer, without it."""
        stops = frozenset(self.stop_ids)
        return ids[: next((place for place, token in enumerate(ids) if token in stops), len(ids))]

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
        """Token ids of a text, none of which is a control token, whatever the text holds."""

    def encode_answer(self, text: str) -> list[int]:
        """Token ids of what the model itself says: tokens that decoding shows (`<think>`) are meant, special ones are not."""
        return self.encode(text)

    @abstractmethod
    def decode(self, ids: list[int]) -> str:
        """Text of token ids; special tokens vanish, and so do ids beyond the pieces (rows of a padded vocabulary)."""

    def encode_documents(self, texts: Iterable[str], dtype: type[np.integer[Any]]) -> list[bytes]:
        """BOS (where the model has one) + tokens + EOS of several texts, as bytes of ids of this type, on this thread.

        `DocumentEncoder` gives the same bytes faster, for most tokenizers.
        """
        return [np.array(self.encode(text, bos=True, eos=True), dtype).tobytes() for text in texts]

    @property
    @abstractmethod
    def library(self) -> str:
        """Name and version of the library that encodes."""

    @abstractmethod
    def text_json(self) -> str:
        """A tokenizer.json by which other libraries give the ids of `encode`: without control tokens.

        Raises:
            TokenizerError: it cannot be written as one.
        """

    @abstractmethod
    def probes(self) -> Iterator[str]:
        """Texts made of its own pieces, on which a conversion is most likely to give other ids (probes.py)."""

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
