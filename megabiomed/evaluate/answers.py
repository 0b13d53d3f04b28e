"""Generated answers: greedy with a key/value cache, and the option that a text names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from megabiomed import platform
from megabiomed.corpus.tokenizer import Tokenizer

BATCH = 16
_STATED = r"(?:answer|option|choice)(?:\s+is)?\s*:?\s*\(?"


def generate_ids(
    model: Any, prompts: Sequence[list[int]], max_new_tokens: int, tokenizer: Tokenizer
) -> list[list[int]]:  # fmt: skip
    """Greedy continuations, EOS not included. Every rank of the group answers its share and gets all answers.

    Args:
        model: a LlamaForCausalLM, whole on each rank.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    found = torch.full((len(prompts), max_new_tokens), -1, dtype=torch.int64, device=platform.device())
    # Alike lengths together: padding is computed too.
    order = sorted(range(rank, len(prompts), world), key=lambda number: len(prompts[number]))
    for low in range(0, len(order), BATCH):
        part = order[low : low + BATCH]
        out = _generate(model, [prompts[number] for number in part], max_new_tokens, tokenizer.eos_id)
        for number, row in zip(part, out.tolist()):
            kept = row[: row.index(tokenizer.eos_id)] if tokenizer.eos_id in row else row
            found[number, : len(kept)] = torch.tensor(kept, dtype=torch.int64, device=found.device)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return [[token for token in row if token >= 0] for row in found.tolist()]


@torch.no_grad()
def _generate(model: Any, prompts: list[list[int]], max_new_tokens: int, eos: int) -> torch.Tensor:
    longest = max(map(len, prompts))
    padded = torch.tensor([[eos] * (longest - len(ids)) + ids for ids in prompts], device=platform.device())  # [b, s]
    mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts], device=padded.device)
    out = model.generate(
        padded, attention_mask=mask, max_new_tokens=max_new_tokens, do_sample=False, use_cache=True,
        eos_token_id=eos, pad_token_id=eos,
    )  # fmt: skip
    return torch.as_tensor(out)[:, longest:]


def extract_option(text: str, names: Sequence[str], options: Sequence[str]) -> int | None:
    """The option that a generated answer means; None when it names none, or several at once.

    In this order: a stated answer ("the answer is B"), a text that begins with a name, the only name in the text, the only
    option's text in the text. Names of one letter are case sensitive: "a" is an article.
    """
    flags = 0 if all(len(name) == 1 for name in names) else re.IGNORECASE
    pattern = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    by_name = {name.lower() if flags else name: number for number, name in enumerate(names)}

    def number(found: re.Match[str]) -> int:
        return by_name[found.group(1).lower() if flags else found.group(1)]

    stated = re.search(rf"(?i:{_STATED})({pattern})\b", text, flags) or re.match(rf"\s*\(?({pattern})\b", text, flags)
    if stated:
        return number(stated)
    named = {number(found) for found in re.finditer(rf"\b({pattern})\b", text, flags)}
    if len(named) == 1:
        return named.pop()
    lowered = text.lower()
    told = [index for index, option in enumerate(options) if re.search(rf"\b{re.escape(option.lower())}\b", lowered)]
    return told[0] if len(told) == 1 else None
