"""Conversations as token ids, by the chat template of a tokenizer, with the ids that transformers gives them.

A template (Jinja, run in the sandbox of transformers) writes control tokens and what users said into one text. There
nothing tells `<|im_end|>` of the template from that of a user. So what would be a control token in a message is cut by a
mark before the template sees it, and the mark is taken out once the template's own control tokens are found.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from megabiomed.ground.errors import TokenizerError

if TYPE_CHECKING:
    from megabiomed.tokenizer.interface import Tokenizer

ASSISTANT = "assistant"
_MARKS = [chr(code) for code in range(0xFDD0, 0xFDF0)]  # Unicode reserves these characters for uses like this one
_ANSWER = "what-the-model-says"  # found again in the rendered conversation
# Llama-3.1's template writes the day into each prompt. Data, training and answers must agree on one: the template's default.
_DATE = "26 Jul 2024"


class Message(NamedTuple):
    """One turn. Roles: system, user, assistant."""

    role: str
    content: str


class ChatTemplate:
    """The chat template of a tokenizer.

    Args:
        tokenizer: encodes the texts between the control tokens.
        template: in Jinja, as tokenizer_config.json or chat_template.jinja has it.
        named: special tokens that the template names: `bos_token`.
    """

    def __init__(self, tokenizer: Tokenizer, template: str, named: Mapping[str, str]) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._named = dict(named)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The ids of a conversation up to where the assistant answers. The template decides whether BOS is among them.

        Raises:
            TokenizerError: the template is damaged or refuses the messages.
        """
        mark = _unused(message.content for message in messages)
        return self._ids(self._render(messages, mark, answering=True), mark)

    def prompt_of_pieces(self, pieces: Sequence[str]) -> list[list[int]]:
        """The same for one question of a user that is cut into pieces, between which something other than text stands.

        Raises as `prompt`.
        """
        gap = _unused(pieces)
        question = gap.join(pieces)
        mark = _unused([question])
        return [self._ids(part, mark) for part in self._render([Message("user", question)], mark, True).split(gap)]

    def answer(self, text: str) -> list[int]:
        """The ids of an answer to a prompt, with those that end it."""
        return [*self._tokenizer.encode_answer(text), *self.end_of_answer]

    @cached_property
    def end_of_answer(self) -> list[int]:
        """The ids that follow an answer: the control token of the template, or EOS where it has none.

        Raises as `prompt`.
        """
        messages = [Message("user", "question"), Message(ASSISTANT, _ANSWER)]
        _, shown, rest = self._render(messages, _MARKS[0], answering=False).rpartition(_ANSWER)
        found = self._control.search(rest) if shown else None
        return [self._tokenizer.control_tokens[found[0]].id] if found else [self._tokenizer.eos_id]

    @cached_property
    def _control(self) -> re.Pattern[str]:
        # Of two that begin at one place the longer one counts, as in `tokenizers`. An empty alternative would match all.
        texts = sorted(self._tokenizer.control_tokens, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, texts)) or r"(?!)")

    def _ids(self, rendered: str, mark: str) -> list[int]:
        tokens = self._tokenizer.control_tokens
        ids = list[int]()
        place = 0
        left_strip = False
        for found in [*self._control.finditer(rendered), None]:
            text = rendered[place : found.start() if found else None]
            token = tokens[found[0]] if found else None
            text = text.lstrip() if left_strip else text
            text = text.rstrip() if token and token.lstrip else text
            ids += self._tokenizer.encode(text.replace(mark, "")) if text else []
            if found and token:
                ids.append(token.id)
                place, left_strip = found.end(), token.rstrip
        return ids

    def _render(self, messages: Sequence[Message], mark: str, answering: bool) -> str:
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        told = [{"role": held.role, "content": self._broken(held, mark)} for held in messages]
        try:
            rendered, _ = render_jinja_template(
                conversations=[told], chat_template=self._template, add_generation_prompt=answering,
                date_string=_DATE, **self._named,
            )  # fmt: skip
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            roles = ", ".join(message.role for message in messages)
            raise TokenizerError(
                f"the chat template beside {self._tokenizer.path} refuses a conversation of {roles}", got=error,
                do="use another prompt template, or one of the roles that the model was trained with",
            ) from None  # fmt: skip
        return str(rendered[0])

    def _broken(self, message: Message, mark: str) -> str:
        """A message in which no control token can be found, nor one that begins or ends outside of it."""
        tokens = self._tokenizer.control_tokens
        if message.role == ASSISTANT:  # a template may look for `</think>` in what the model said
            tokens = {text: token for text, token in tokens.items() if token.special}
        content = message.content
        # Templates strip messages: what counts is where their text begins and ends.
        body = content.strip()
        if not body:
            return content
        before, after = content.split(body, 1)
        for text in tokens:
            body = body.replace(text, text[0] + mark + text[1:])
        for size in range(max(map(len, tokens), default=1) - 1, 0, -1):
            if len(body) >= size and any(body.endswith(text[:size]) for text in tokens if len(text) > size):
                cut = len(body) - size + 1
                body = body[:cut] + mark + body[cut:]
                break
        if any(_continues(text, body) for text in tokens):
            body = mark + body
        return before + body + after


def _continues(token: str, body: str) -> bool:
    """Whether a text could go on with a token that began before it."""
    rests = (token[place:] for place in range(1, len(token)))
    return any(body.startswith(rest) or rest.startswith(body) for rest in rests)


def _unused(texts: Iterable[str]) -> str:
    held = "".join(texts)
    return next(mark for mark in _MARKS if mark not in held)
