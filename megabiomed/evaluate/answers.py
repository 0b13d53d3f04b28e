"""Generated answers: greedy with a key/value cache, and the option that a text names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from megabiomed.ground.errors import NonFiniteError
from megabiomed.processes import platform
from megabiomed.samples.questions.templates import SHOT_SEPARATOR
from megabiomed.tokenizer.interface import Tokenizer

BATCH = 16
_STATED = r"(?:answer|option|choice)(?:\s+is\b\s*:?|\s*:)\s*(?:option\s+|choice\s+)?\(?"
_LEADS = r"(?=\s*(?:[).:,;]|\n|$))"
"""After a letter that begins an answer: "A patient ..." is no answer."""
_ARTICLE = r"(?!(?<=A)\s+(?!(?:is|or|and|because|since|as|but)\b)[a-z])"


def generate_ids(
    model: Any, prompts: Sequence[list[int]], max_new_tokens: int, tokenizer: Tokenizer
) -> list[list[int]]:  # fmt: skip
    """Greedy continuations, EOS not included. Every rank of the group answers its share and gets all answers.

    Args:
        model: a LlamaForCausalLM, whole on each rank.

    Raises:
        NonFiniteError: on every rank, when the model gives NaN.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    # One row an answer, and a last one that says whether a rank saw NaN.
    found = torch.full((len(prompts) + 1, max_new_tokens), -1, dtype=torch.int64, device=platform.device())
    watch = _WatchNan()
    # Alike lengths together: padding is computed too.
    order = sorted(range(rank, len(prompts), world), key=lambda number: len(prompts[number]))
    for low in range(0, len(order), BATCH):
        part = order[low : low + BATCH]
        out = _generate(model, [prompts[number] for number in part], max_new_tokens, tokenizer.eos_id, watch)
        for number, row in zip(part, out.tolist()):
            kept = row[: row.index(tokenizer.eos_id)] if tokenizer.eos_id in row else row
            found[number, : len(kept)] = torch.tensor(kept, dtype=torch.int64, device=found.device)
    found[-1] = int(watch.seen)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    *rows, seen = found.tolist()
    if seen[0]:
        raise NonFiniteError(
            "the model gives logits that are not numbers", do="take another checkpoint, or --precision fp32"
        )
    return [[token for token in row if token >= 0] for row in rows]


class _WatchNan:
    """Remembers whether the logits of a generation held NaN, which greedy decoding would answer with some token."""

    seen = False

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.seen = self.seen or bool(scores.isnan().any())
        return scores


@torch.no_grad()
def _generate(model: Any, prompts: list[list[int]], max_new_tokens: int, eos: int, watch: _WatchNan) -> torch.Tensor:
    longest = max(map(len, prompts))
    padded = torch.tensor([[eos] * (longest - len(ids)) + ids for ids in prompts], device=platform.device())  # [b, s]
    mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts], device=padded.device)
    from transformers import LogitsProcessorList

    out = model.generate(
        padded, attention_mask=mask, max_new_tokens=max_new_tokens, do_sample=False, use_cache=True,
        eos_token_id=eos, pad_token_id=eos, logits_processor=LogitsProcessorList([watch]),
    )  # fmt: skip
    return torch.as_tensor(out)[:, longest:]


def first_answer(text: str, shots: int) -> str:
    """A generated answer without the next question that a model invents after it when its prompt holds examples."""
    return text.strip().partition(SHOT_SEPARATOR)[0].rstrip() if shots else text.strip()


def extract_option(text: str, names: Sequence[str], options: Sequence[str]) -> int | None:
    """The option that a generated answer means; None when it names none, or several at once.

    In this order: a stated answer ("the answer is B"), a text that begins with a name, the only name in the text, the only
    option's text in the text. Names of one letter are case sensitive, and "A" before a noun is an article.
    """
    letters = all(len(name) == 1 for name in names)
    flags = 0 if letters else re.IGNORECASE
    by_name = {name if letters else name.lower(): number for number, name in enumerate(names)}
    name = _any_of(names)

    def number(found: re.Match[str]) -> int:
        return by_name[found.group(1) if letters else found.group(1).lower()]

    stated = re.search(rf"(?i:\b{_STATED}){name}", text, flags) or re.match(
        rf"\s*\(?{name}{_LEADS if letters else ''}", text, flags
    )
    if stated:
        return number(stated)
    named = {number(found) for found in re.finditer(name + (_ARTICLE if letters else ""), text, flags)}
    if len(named) == 1:
        return named.pop()
    lowered = [option.lower() for option in options]
    told = {found.group(1) for found in re.finditer(_any_of(lowered), text.lower())}
    meant = [number for number, option in enumerate(lowered) if option in told]
    return meant[0] if len(meant) == 1 else None


def _any_of(texts: Sequence[str]) -> str:
    """A pattern of whole words, the longest first: "Ca++" is more than "Ca". A word may end with a sign, as "20%" does."""
    return rf"(?<!\w)({'|'.join(re.escape(text) for text in sorted(texts, key=len, reverse=True))})(?!\w)"
