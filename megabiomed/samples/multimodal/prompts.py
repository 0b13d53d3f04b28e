"""Prompt templates. A placeholder stands where the embeddings of an item go."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from megabiomed.encoders.modality import Modality
from megabiomed.ground.errors import ConfigError, DataError
from megabiomed.samples.multimodal.records import MultimodalQuestion
from megabiomed.tokenizer.interface import Tokenizer

_SYSTEM = (
    "You are working as an excellent assistant in chemistry and molecule discovery. Below a human expert gives the "
    "representation of a molecule or a protein. Answer questions about it. "
)
_BIOMEDGPT = _SYSTEM + "### Human: {items}{question} ### Assistant: "


@dataclass(frozen=True)
class Template:
    """How question and items become a prompt.

    Attributes:
        prompt: complete prompt with {items} and {question}; the answer follows, then EOS.
        item: text of one item, with {name} of its modality and {placeholder}.
        items: the same for single modalities, by name; {text} is the item's own, its SMILES for example.
        chat: the prompt is what a user says in a conversation, as the tokenizer's chat template writes it.
    """

    prompt: str
    item: str
    items: Mapping[str, str] = field(default_factory=dict)
    chat: bool = False

    def item_text(self, modality: Modality[Any, Any], text: str) -> str:
        """What stands in the prompt for one item."""
        found = self.items.get(modality.name, self.item).replace("{name}", modality.name)
        return found.replace("{placeholder}", modality.placeholder).replace("{text}", text)


TEMPLATES = {
    # PharMolix/OpenBioMed, chat_utils.py and examples/biomedgpt_inference.ipynb
    "biomedgpt": Template(_BIOMEDGPT, "<{name}>{placeholder}</{name}> "),
    "biomedgpt-smiles": Template(
        _BIOMEDGPT, "<{name}>{placeholder}</{name}> ",
        {"molecule": "<molecule><representation>{placeholder}</representation><SMILES>{text}</SMILES></molecule> "},
    ),
    "plain": Template("{items}{question} ", "{placeholder} "),
    "chat": Template("{items}{question}", "<{name}>{placeholder}</{name}> ", chat=True),
}  # fmt: skip


def find_template(name: str) -> Template:
    """A template by name."""
    if name not in TEMPLATES:
        raise ConfigError("there is no such prompt template", got=name, expected=", ".join(TEMPLATES))
    return TEMPLATES[name]


@dataclass(frozen=True)
class Prompt:
    """A prompt cut at its placeholders.

    Attributes:
        pieces: the texts between the placeholders: one more than there are placeholders.
        items: (modality, text) of each placeholder.
    """

    pieces: list[str]
    items: list[tuple[str, str]]


def render(template: Template, record: MultimodalQuestion, modalities: Sequence[Modality[Any, Any]]) -> Prompt:
    """The prompt of a question.

    A question that has placeholders itself keeps them; otherwise the items come first, in the order of `modalities`.

    Raises:
        DataError: placeholders and items do not match, or there is an item of another modality.
    """
    names = {modality.placeholder: modality.name for modality in modalities}
    _refuse_unknown(record, names.values())
    placeholder = re.compile("(" + "|".join(map(re.escape, names)) + ")")
    items = ""
    if not placeholder.search(record.question):
        items = "".join(template.item_text(m, text) for m in modalities for text in record.of(m.name))
    prompt = template.prompt.replace("{items}", items).replace("{question}", record.question)
    # split keeps the group: every second part is a placeholder.
    parts = placeholder.split(prompt)
    kinds = [names[part] for part in parts[1::2]]
    found = {name: kinds.count(name) for name in names.values()}
    wanted = {name: len(record.of(name)) for name in names.values()}
    if found != wanted:
        raise DataError("placeholders and data do not match", got=_shown(found), expected=_shown(wanted))
    waiting = {name: iter(record.of(name)) for name in names.values()}
    return Prompt(parts[::2], [(kind, next(waiting[kind])) for kind in kinds])


def encode_pieces(template: Template, prompt: Prompt, tokenizer: Tokenizer) -> list[list[int]]:
    """The token ids of each piece of a prompt.

    Raises:
        TokenizerError: the template is that of conversations and the tokenizer has none.
    """
    if template.chat:
        return tokenizer.require_chat().prompt_of_pieces(prompt.pieces)
    first, *others = (tokenizer.encode(piece) if piece else [] for piece in prompt.pieces)
    return [[*tokenizer.start, *first], *others]


def end_of_answer(template: Template, tokenizer: Tokenizer) -> list[int]:
    """The token ids that end an answer. Raises as `encode_pieces`."""
    return tokenizer.require_chat().end_of_answer if template.chat else [tokenizer.eos_id]


def _refuse_unknown(record: MultimodalQuestion, names: Collection[str]) -> None:
    unknown = [name for name, texts in record.items.items() if texts and name not in names]
    if unknown:
        raise DataError(
            f"there is no modality {unknown[0]}", got=record.ident, expected=", ".join(names),
            do="give it with --modality when the dataset is built, and in align.modalities",
        )  # fmt: skip


def _shown(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) + " placeholders"
