"""What the files beside a tokenizer say: its special tokens, the ids that end an answer, and its chat template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megabiomed.ground.errors import TokenizerError
from megabiomed.ground.files import inside, read_json
from megabiomed.tokenizer.files import SENTENCEPIECE, companions

_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
_ADDED = "added_tokens.json"


@dataclass(frozen=True)
class Companions:
    """The content of the files.

    Attributes:
        named: special tokens by the names of transformers: `eos_token`.
        config: tokenizer_config.json.
        generation: generation_config.json.
        chat_template: in Jinja; None where the model is none for conversations.
    """

    named: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    generation: Mapping[str, Any] = field(default_factory=dict)
    chat_template: str | None = None

    def ids(self, name: str) -> list[int]:
        """Token ids that the generation configuration gives under a name: one, several or none."""
        found = self.generation.get(name)
        return [] if found is None else list(found) if isinstance(found, list) else [found]


def read_companions(tokenizer: Path) -> Companions:
    """Read the files beside a tokenizer; what is not there is empty.

    Raises:
        UserError: one of them is damaged.
    """
    held = {file.name: file for file in companions(tokenizer)}
    config = _object(held.get("tokenizer_config.json"))
    # transformers 4 wrote both files; where they differ it takes the configuration.
    named = {**_tokens(_object(held.get("special_tokens_map.json")), tokenizer), **_tokens(config, tokenizer)}
    template = held.get("chat_template.jinja")
    written = template.read_text(encoding="utf-8") if template is not None else _template(config, tokenizer)
    generation = _object(held.get("generation_config.json"))
    for key, value in generation.items():
        if key.endswith("_token_id") and not all(type(one) is int for one in _several(value)):
            raise _damaged(held["generation_config.json"], f"{key} = {value!r}", "a whole number, or a list of them")
    return Companions(named, config, generation, written)


def unread_tokens(tokenizer: Path, pieces: int) -> dict[int, str]:
    """Tokens by id that the files beside a SentencePiece model add behind its pieces, and that it therefore does not know.

    Args:
        pieces: of the tokenizer.

    Raises:
        UserError: one of the files is damaged.
    """
    added, config = tokenizer.with_name(_ADDED), tokenizer.with_name("tokenizer_config.json")
    if tokenizer.name != SENTENCEPIECE:
        return {}
    listed = read_json(inside(added.parent, _ADDED), dict) if added.is_file() else {}
    found = {number: text for text, number in listed.items() if type(number) is int}
    decoder = _object(inside(config.parent, config.name) if config.is_file() else None).get("added_tokens_decoder")
    for number, token in (decoder if isinstance(decoder, dict) else {}).items():
        if number.isdecimal() and isinstance(token, dict):
            found[int(number)] = str(token.get("content"))
    return {number: found[number] for number in sorted(found) if number >= pieces}


def _several(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _damaged(file: object, got: str, expected: str) -> TokenizerError:
    return TokenizerError(f"{file} is damaged", got=got[:200], expected=expected, do="copy it from the model again")


def _object(file: Path | None) -> dict[str, Any]:
    return {} if file is None else read_json(file, dict)


def _tokens(values: Mapping[str, Any], tokenizer: Path) -> dict[str, str]:
    """Special tokens, each written as a text or as an object that describes it."""
    found = {}
    for name in _NAMES:
        token = values.get(name)
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str):
            found[name] = text
        elif token is not None:
            raise _damaged(f"what stands beside {tokenizer}", f"{name} = {token!r}", "a text, or an object with one")
    return found


def _template(config: Mapping[str, Any], tokenizer: Path) -> str | None:
    held = config.get("chat_template")
    if isinstance(held, list):  # several for several purposes
        named = (each for each in held if isinstance(each, dict) and each.get("name") == "default")
        held = next(named, {}).get("template")
    if held is not None and not isinstance(held, str):
        raise TokenizerError(
            f"the chat template beside {tokenizer} is damaged", got=type(held).__name__, expected="text in Jinja"
        )
    return held
