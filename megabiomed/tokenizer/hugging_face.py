"""tokenizer.json, the tokenizer of Llama-3, Qwen and SmolLM: byte-level BPE, read by the library `tokenizers`.

Two tokenizers are made of the file. One has all its tokens and decodes. The other lacks the control tokens, in its
vocabulary too, and encodes: no text, whatever its user wrote, can become a control token. Those are all tokens that were
added to the BPE and stand for no white space: `<|im_end|>`, but also `<|fim_prefix|>` and `<think>`, which files mark as not
special, so that decoding shows them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from megabiomed.ground.errors import TokenizerError
from megabiomed.ground.files import refuse_pointer, sha256_bytes
from megabiomed.tokenizer.companions import Companions, read_companions
from megabiomed.tokenizer.interface import ControlToken, Tokenizer
from megabiomed.tokenizer.probes import CONTROL, FEW, NORMAL, Piece, probe_texts

Values = dict[str, Any]
_PARALLEL = "TOKENIZERS_PARALLELISM"


def read_tokenizer_json(path: Path) -> Values:
    """The content of a tokenizer.json.

    Raises:
        TokenizerError: no such file, none of a tokenizer, or one of another kind than BPE.
    """
    if not path.is_file():
        raise TokenizerError(f"{path} is not there", do="give the path of a tokenizer.json or tokenizer.model")
    try:
        held = json.loads(path.read_bytes())
        kind = held["model"].get("type", "BPE")
        vocab = held["model"]["vocab"]
        added = held["added_tokens"]
        typed = [(token["content"], token["id"], token["special"], token["lstrip"], token["rstrip"]) for token in added]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        refuse_pointer(path)
        raise TokenizerError(f"{path} is no tokenizer.json", do="give the file of a Hugging Face folder") from None
    if kind != "BPE" or not isinstance(vocab, dict):
        raise TokenizerError(f"{path} is no BPE", got=kind, expected="byte-pair encoding, as Llama-3 and Qwen have it")
    pieces = [*vocab.items(), *(each[:2] for each in typed)]
    if not isinstance(held["model"].get("merges"), list) or any(
        not isinstance(text, str) or type(number) is not int or number < 0 for text, number in pieces
    ):
        raise TokenizerError(
            f"{path} is damaged", expected="merges, and pieces with ids", do="copy it from the model again"
        )
    return dict(held)


def added_ids(path: Path) -> list[int]:
    """Ids of the tokens that were added to the BPE. Raises as `read_tokenizer_json`."""
    return [token["id"] for token in read_tokenizer_json(path)["added_tokens"]]


class HuggingFaceTokenizer(Tokenizer):
    """The tokenizer of a tokenizer.json and of the files beside it.

    Texts begin with BOS where the model's own tokenizer puts it there: in Llama-3, not in Qwen.

    Raises:
        TokenizerError: the file is none of a BPE, or nothing says which token ends a text.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._held = read_tokenizer_json(self.path)
        self._whole = made(self._held, self.path)
        ids = [*self._held["model"]["vocab"].values(), *(token["id"] for token in self._held["added_tokens"])]
        # Ids may have gaps; a model needs a row for the highest.
        self.vocab_size = max(ids, default=-1) + 1
        self.eos_id = self._eos()
        self.bos_id = self._bos()

    @cached_property
    def companions(self) -> Companions:
        """See the base class."""
        return read_companions(self.path)

    @cached_property
    def sha256(self) -> str:
        """Hash of what decides ids, whichever version of transformers wrote the file and however it is laid out."""
        return sha256_bytes(json.dumps([_identity(self._held), self.bos_id, self.eos_id], sort_keys=True).encode())

    @cached_property
    def control_tokens(self) -> Mapping[str, ControlToken]:
        """See the base class."""
        return {
            token["content"]: ControlToken(token["id"], token["special"], token["lstrip"], token["rstrip"])
            for token in self._held["added_tokens"]
            if _is_control(token)
        }

    def piece(self, number: int) -> str:
        """The text of an id, as the file has it; "" for an id without one."""
        return self._whole.id_to_token(number) or ""

    @property
    def values(self) -> Values:
        """The content of the file; not to be changed."""
        return self._held

    @cached_property
    def _text(self) -> tokenizers.Tokenizer:
        return made(restricted(self._held, lambda token: not _is_control(token)), self.path)

    @cached_property
    def _answers(self) -> tokenizers.Tokenizer:
        return made(restricted(self._held, lambda token: not token["special"]), self.path)

    def encode(self, text: str, bos: bool = False, eos: bool = False) -> list[int]:
        """See the base class."""
        ids: list[int] = self._text.encode(text, add_special_tokens=False).ids
        return [*(self.start if bos else []), *ids, *([self.eos_id] if eos else [])]

    def encode_answer(self, text: str) -> list[int]:
        """See the base class."""
        return list(self._answers.encode(text, add_special_tokens=False).ids)

    def encode_documents(self, texts: Iterable[str], dtype: type[np.integer[Any]]) -> list[bytes]:
        """See the base class."""
        with _on_this_thread():
            found = self._text.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array([*self.start, *each.ids, self.eos_id], dtype).tobytes() for each in found]

    @property
    def library(self) -> str:
        """See the base class."""
        return f"tokenizers {tokenizers.__version__}"

    def text_json(self) -> str:
        """See the base class."""
        return json.dumps(restricted(self._held, lambda token: not _is_control(token)))

    def probes(self) -> Iterator[str]:
        """See the base class."""
        numbers = list(self._held["model"]["vocab"].values())
        ordinary = (Piece(self._text.decode([number]), NORMAL) for number in numbers[:: 1 + len(numbers) // FEW])
        control = (Piece(text, CONTROL) for text in self.control_tokens)
        return probe_texts([*ordinary, *control], thorough=False)

    def decode(self, ids: list[int]) -> str:
        """See the base class."""
        return str(self._whole.decode([token for token in ids if token < self.vocab_size], skip_special_tokens=True))

    def write_hugging_face(self, folder: Path, vocab_size: int, context: int) -> None:
        """See the base class."""
        from megabiomed.tokenizer.hf_tokenizer import write_as_it_is

        write_as_it_is(self, folder, vocab_size, context)

    def parts_of_new_pieces(self, base: Tokenizer) -> list[list[int]]:
        """See the base class."""
        from megabiomed.tokenizer.extend_json import parts_of_new_pieces

        return parts_of_new_pieces(base, self)

    def _eos(self) -> int:
        named = self._whole.token_to_id(self.companions.named.get("eos_token", ""))
        found = [named] if named is not None else self.companions.ids("eos_token_id")
        if not found or found[0] >= self.vocab_size:
            raise TokenizerError(
                f"nothing says which token of {self.path} ends a text", got=self.companions.named.get("eos_token"),
                expected="eos_token in tokenizer_config.json beside it", do="copy all tokenizer files of the model",
            )  # fmt: skip
        return int(found[0])

    def _bos(self) -> int | None:
        # The file itself says what stands before a text; `add_bos_token` beside it changes nothing (transformers 5).
        named = self._whole.token_to_id(self.companions.named.get("bos_token", ""))
        return named if named is not None and self._whole.encode("").ids[:1] == [named] else None


@contextmanager
def _on_this_thread() -> Iterator[None]:
    """Let `tokenizers` start no threads of its own: each worker of a build would start one for every core."""
    before = os.environ.get(_PARALLEL)
    os.environ[_PARALLEL] = "false"
    try:
        yield
    finally:
        del os.environ[_PARALLEL]
        os.environ |= {} if before is None else {_PARALLEL: before}


def _is_control(token: Values) -> bool:
    return bool(token["special"]) or not token["content"].isspace()


def restricted(held: Values, kept: Callable[[Values], bool]) -> Values:
    """A tokenizer.json that has of its added tokens only some, and no other piece with the text of a missing one."""
    added = [token for token in held["added_tokens"] if kept(token)]
    # The piece for unknown characters is one that no merge makes; the model must have it.
    needed = {held["model"].get("unk_token")}
    gone = {token["content"] for token in held["added_tokens"] if not kept(token)} - needed
    vocab = {piece: number for piece, number in held["model"]["vocab"].items() if piece not in gone}
    # `tokenizers` gives an added token the id that the file says only where the vocabulary says the same.
    vocab |= {token["content"]: token["id"] for token in added}
    merges = [pair for pair in map(merge_of, held["model"]["merges"]) if gone.isdisjoint((*pair, "".join(pair)))]
    model = {**held["model"], "vocab": vocab, "merges": merges}
    return {**held, "model": model, "added_tokens": added, "post_processor": None, "truncation": None, "padding": None}


def merge_of(written: str | list[str]) -> list[str]:
    """Two pieces that are joined: a list in newer files, in older ones a text with a space."""
    return written.split(" ") if isinstance(written, str) else list(written)


def made(values: Values, path: Path) -> tokenizers.Tokenizer:
    """The library's tokenizer of the content of a file; `TokenizerError` where it takes none of it."""
    try:
        return tokenizers.Tokenizer.from_str(json.dumps({**values, "truncation": None, "padding": None}))
    except Exception as error:  # the library raises nothing more special
        raise TokenizerError(
            f"{path} cannot be read", got=error, do="check the file, or install a newer `tokenizers`"
        ) from None


def _identity(held: Values) -> Values:
    model = {**held["model"], "merges": [merge_of(pair) for pair in held["model"]["merges"]]}
    vocab = model.pop("vocab")
    parts = {"model": model, **{key: held.get(key) for key in ("normalizer", "pre_tokenizer")}}
    added = sorted(held["added_tokens"], key=lambda token: token["id"])
    return {**_said(parts), "vocab": vocab, "added_tokens": _said(added)}


def _said(value: Any) -> Any:
    """A value without the keys that say nothing: versions of the library differ in whether they write them."""
    if isinstance(value, dict):
        return {key: _said(each) for key, each in value.items() if each not in (None, False, "")}
    return [_said(each) for each in value] if isinstance(value, list) else value
