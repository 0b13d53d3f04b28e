"""SentencePiece tokenizers in Llama-2's layout: BPE with byte fallback, unk 0, bos 1, eos 2."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

import sentencepiece

from megabiomed.ground.errors import TokenizerError
from megabiomed.ground.files import refuse_pointer
from megabiomed.tokenizer.interface import ControlToken, Tokenizer
from megabiomed.tokenizer.probes import probe_texts

_LOG = logging.getLogger(__name__)
UNK = 0
BOS = 1
EOS = 2
MAX_LINES = 4_000_000
"""Lines that a tokenizer is trained on at most: a fixed random sample of longer input, which bounds the memory."""

_BYTES_AND_SPECIALS = 256 + 3
_LARGEST = 2**31 - 1  # it counts in 32 bits
_MAX_LINE_CHARACTERS = 4000  # at most 4 bytes each, which stays below SentencePiece's limit of 16384 a line


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise TokenizerError(f"{path} is not there", do="give the path of a SentencePiece tokenizer.model")
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (RuntimeError, OSError):
            refuse_pointer(self.path)
            raise TokenizerError(
                f"{path} is not a SentencePiece model",
                do="give a tokenizer.model as Llama-2 ships it, or a tokenizer.json",
            ) from None
        self.vocab_size: int = self._processor.vocab_size()
        self.bos_id = bos = self._processor.bos_id()
        self.eos_id: int = self._processor.eos_id()
        if bos < 0 or self.eos_id < 0:
            raise TokenizerError(f"{path} has no bos or eos piece", do="train it with `megabiomed tokenizer train`")

    @cached_property
    def control_tokens(self) -> Mapping[str, ControlToken]:
        """See the base class."""
        held = (number for number in range(self.vocab_size) if self._processor.is_control(number))
        return {self._processor.id_to_piece(number): ControlToken(number) for number in held}

    def encode(self, text: str, bos: bool = False, eos: bool = False) -> list[int]:
        """See the base class."""
        ids: list[int] = self._processor.encode(text)
        return [*(self.start if bos else []), *ids, *([self.eos_id] if eos else [])]

    @property
    def library(self) -> str:
        """See the base class."""
        return f"sentencepiece {sentencepiece.__version__}"

    def text_json(self) -> str:
        """See the base class."""
        from megabiomed.tokenizer.hf_tokenizer import converted_without_control

        return json.dumps(converted_without_control(self.path))

    def probes(self) -> Iterator[str]:
        """See the base class."""
        from sentencepiece import sentencepiece_model_pb2

        proto = sentencepiece_model_pb2.ModelProto.FromString(self.path.read_bytes())  # type: ignore[attr-defined]
        return probe_texts(proto.pieces, thorough=False)

    def decode(self, ids: list[int]) -> str:
        """See the base class."""
        # A model may have rows that are no piece of its tokenizer, and can generate them.
        return str(self._processor.decode([token for token in ids if token < self.vocab_size]))

    def write_hugging_face(self, folder: Path, vocab_size: int, context: int) -> None:
        """See the base class."""
        from megabiomed.tokenizer.hf_tokenizer import write_tokenizer

        write_tokenizer(self.path, folder, vocab_size, context)

    def parts_of_new_pieces(self, base: Tokenizer) -> list[list[int]]:
        """See the base class."""
        from megabiomed.tokenizer.extend import parts_of_new_pieces

        return parts_of_new_pieces(base.path, self.path)


def train_tokenizer(texts: Iterator[str], output: Path, vocab_size: int) -> SentencePieceTokenizer:
    """Train a tokenizer in Llama-2's layout and store it as `output` (a file name ending in .model).

    Raises:
        TokenizerError: there is no text, or too little for `vocab_size`; the message names the largest that works.
    """
    if vocab_size <= _BYTES_AND_SPECIALS:
        raise TokenizerError(
            "the vocabulary is too small for byte fallback",
            got=vocab_size,
            expected=f"more than {_BYTES_AND_SPECIALS}",
            do="ask for a larger vocabulary",
        )
    if vocab_size > _LARGEST:
        raise TokenizerError(
            "the vocabulary is too large for SentencePiece", got=vocab_size, expected=f"at most {_LARGEST}"
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.building")
    lines: Counter[str] = Counter()
    sentencepiece.set_random_generator_seed(0)
    try:
        with temporary.open("wb") as file:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=_training_lines(texts, lines),
                model_writer=file,
                vocab_size=vocab_size,
                model_type="bpe",
                byte_fallback=True,
                split_digits=True,
                normalization_rule_name="identity",
                remove_extra_whitespaces=False,
                add_dummy_prefix=True,
                character_coverage=0.9995,
                max_sentence_length=16384,
                input_sentence_size=MAX_LINES,
                shuffle_input_sentence=True,
                unk_id=UNK, bos_id=BOS, eos_id=EOS, pad_id=-1,
                num_threads=1,  # more would make ties depend on timing
                minloglevel=2,
            )  # fmt: skip
        temporary.replace(output)
    except RuntimeError as error:
        raise _training_error(str(error), vocab_size) from None
    finally:
        temporary.unlink(missing_ok=True)
    if lines["given"] > MAX_LINES:
        _LOG.warning("the tokenizer learned from a random sample: %d of %d lines", MAX_LINES, lines["given"])
    return SentencePieceTokenizer(output)


def _training_lines(texts: Iterator[str], lines: Counter[str]) -> Iterator[str]:
    """Lines that SentencePiece takes whole, counted as "given"; it skips longer ones without a word."""
    for text in texts:
        for line in text.split("\n"):
            for start in range(0, len(line), _MAX_LINE_CHARACTERS):
                if piece := line[start : start + _MAX_LINE_CHARACTERS].strip():
                    lines["given"] += 1
                    yield piece


def _training_error(message: str, vocab_size: int) -> TokenizerError:
    if "sentences_.empty()" in message:
        return TokenizerError("there is no text to train a tokenizer on", do="give files that hold text")
    if largest := re.search(r"value <= (\d+)", message):
        return TokenizerError(
            "the text is too small for this vocabulary",
            got=f"vocab_size {vocab_size}",
            expected=f"at most {largest.group(1)}",
            do="lower vocab_size or give more text",
        )
    if needed := re.search(r"required_chars\. \d+ vs (\d+)", message):
        return TokenizerError(
            "the text has more different characters than the vocabulary has pieces",
            got=f"vocab_size {vocab_size}",
            expected=f"at least {needed.group(1)}",
            do="raise vocab_size",
        )
    return TokenizerError("SentencePiece cannot train this tokenizer", got=message, do="change vocab_size or the text")
