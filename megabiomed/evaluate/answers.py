"""Generated answers: greedy with a key/value cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from megabiomed.ground.errors import NonFiniteError
from megabiomed.processes import platform
from megabiomed.samples.questions.templates import SHOT_SEPARATOR
from megabiomed.tokenizer.interface import Tokenizer

BATCH = 16


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
        out = _generate(model, [prompts[number] for number in part], max_new_tokens, tokenizer, watch)
        for number, row in zip(part, out.tolist()):
            kept = tokenizer.until_stop(row)
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
def _generate(
    model: Any, prompts: list[list[int]], max_new_tokens: int, tokenizer: Tokenizer, watch: _WatchNan
) -> torch.Tensor:
    longest, eos = max(map(len, prompts)), tokenizer.eos_id
    padded = torch.tensor([[eos] * (longest - len(ids)) + ids for ids in prompts], device=platform.device())  # [b, s]
    mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts], device=padded.device)
    from transformers import LogitsProcessorList

    out = model.generate(
        padded, attention_mask=mask, max_new_tokens=max_new_tokens, do_sample=False, use_cache=True,
        eos_token_id=tokenizer.stop_ids, pad_token_id=eos, logits_processor=LogitsProcessorList([watch]),
    )  # fmt: skip
    return torch.as_tensor(out)[:, longest:]


def first_answer(text: str, shots: int) -> str:
    """A generated answer without the next question that a model invents after it when its prompt holds examples."""
    return text.strip().partition(SHOT_SEPARATOR)[0].rstrip() if shots else text.strip()
