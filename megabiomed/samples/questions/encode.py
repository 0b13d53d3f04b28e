"""Prompts to token ids: BOS, few-shot examples, the question, and a context that is cut where the window ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from megabiomed.samples.questions.templates import SHOT_SEPARATOR, Prompt
from megabiomed.samples.rejects import Unusable
from megabiomed.tokenizer.chat_template import Message
from megabiomed.tokenizer.interface import Tokenizer


@dataclass(frozen=True)
class Encoded:
    """A question as token ids.

    Attributes:
        text: the prompt as it was asked.
        prompt: its ids, BOS first where the model has one.
        options: ids of each continuation.
        answer: ids of the right continuation.
        cut_words: words that were taken from the beginning of the context.
        cut_shots: few-shot examples that were left out.
        end: ids that end the answer.
    """

    text: str
    prompt: list[int]
    options: tuple[list[int], ...]
    answer: list[int]
    end: list[int]
    cut_words: int = 0
    cut_shots: int = 0


def encode_pair(tokenizer: Tokenizer, prompt: str, continuation: str) -> tuple[list[int], list[int]]:
    """Ids of a prompt (BOS first, where the model has one) and of what continues it, as the tokenizer cuts both together.

    White space at the prompt's end belongs to the continuation, as in lm-eval: SentencePiece joins it to the next word.
    """
    stripped = prompt.rstrip()
    continuation = prompt[len(stripped) :] + continuation
    first = tokenizer.encode(stripped)
    whole = tokenizer.encode(stripped + continuation)
    return [*tokenizer.start, *first], whole[len(first) :]


def encode_prompt(
    tokenizer: Tokenizer, prompt: Prompt, window: int, shots: Sequence[str] = (), room: int = 0, chat: bool = False
) -> Encoded:
    """Prompt and continuations within `window` tokens.

    What does not fit is taken away in this order: few-shot examples from the first on, then words from the beginning of
    the context, never anything of the question.

    Args:
        shots: rendered examples with their answers.
        room: tokens to keep free for a generated answer.
        chat: the prompt is what a user says in a conversation, as the tokenizer's chat template writes it.

    Raises:
        Unusable: question and options alone are longer than the window.
        TokenizerError: `chat`, and the tokenizer has no chat template.
    """
    left, words = list(shots), prompt.context.split(" ") if prompt.context else []

    def attempt(shots: list[str], skip: int) -> tuple[Encoded, int]:
        context = " ".join(words[skip:])
        asked = "".join(shot + SHOT_SEPARATOR for shot in shots) + prompt.head + context + prompt.tail
        found = (_encode_chat if chat else _encode)(tokenizer, asked, prompt)
        # The window must also hold the longest continuation, or what is to be generated.
        longest = max([len(ids) for ids in (*found.options, found.answer)])
        return found, len(found.prompt) + max(longest, room) - window

    found, over = attempt(left, 0)
    while over > 0 and left:
        left = left[1:]
        found, over = attempt(left, 0)
    skip = 0
    if over > 0 and words:
        low, high = 0, len(words)  # the smallest number of words to skip lies in (low, high]
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if attempt(left, middle)[1] <= 0 else (middle, high)
        skip = high
        found, over = attempt(left, skip)
    if over > 0:
        raise Unusable("question longer than the window", f"{over} tokens too many for {window}")
    return replace(found, cut_words=skip, cut_shots=len(shots) - len(left))


def _encode(tokenizer: Tokenizer, asked: str, prompt: Prompt) -> Encoded:
    asked = prompt.system + asked
    ids, answer = encode_pair(tokenizer, asked, prompt.answer)
    options = tuple(encode_pair(tokenizer, asked, option)[1] for option in prompt.options)
    return Encoded(asked, ids, options, answer, [tokenizer.eos_id])


def _encode_chat(tokenizer: Tokenizer, asked: str, prompt: Prompt) -> Encoded:
    """The same as a conversation: what comes before all examples is the system's, white space between is the template's."""
    template, system = tokenizer.require_chat(), prompt.system.strip()
    ids = template.prompt([*([Message("system", system)] if system else []), Message("user", asked.strip())])
    answer, *options = (tokenizer.encode_answer(text.strip()) for text in (prompt.answer, *prompt.options))
    return Encoded(prompt.system + asked, ids, tuple(options), answer, template.end_of_answer)
