"""Validation loss and text of any model in this process: `megabiomed validate` and `generate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from megabiomed.config import ParallelConfig
from megabiomed.engine.build import TrainEngine
from megabiomed.evaluate.model import Model, load_engine, open_model, open_windows
from megabiomed.ground.errors import DataError
from megabiomed.ground.figures import perplexity
from megabiomed.model.as_transformers import as_transformers, refusing_nan
from megabiomed.processes import platform

SEQ_LENGTH = 2048
"""Tokens of a window where no training run says how many."""


def load_alone(path: Path, base: Path | None = None) -> tuple[Model, TrainEngine]:
    """A model complete in this process, in fp32; windows have the length that the run trains with. Raises as `open_model`."""
    model = open_model(path, base)
    seq_length = model.trained.data.seq_length if model.trained else SEQ_LENGTH
    if not dist.is_initialized():
        platform.init_alone()
    return model, load_engine(model, ParallelConfig(), 1, "fp32", seq_length)


class Validation(NamedTuple):
    """Figures of a model on a token store.

    Attributes:
        loss: mean per token, in nats.
        windows, of_windows: those that were read, and those that the store has.
    """

    loss: float
    perplexity: float
    tokens: int
    windows: int
    of_windows: int


def validate(path: Path, store: Path | None, samples: int, base: Path | None = None) -> Validation:
    """The loss of a model on a token store, without optimizer state in memory.

    Args:
        path: run folder, checkpoint of any topology or Hugging Face folder.
        store: None takes the one that the run validates on.
        samples: windows at most, of the length that the run trains with.
        base: where the model is beside which adapters were trained, if it has moved.

    Raises:
        CheckpointError: no such model.
        DataError: no store is known, or it is damaged, too short or made with another tokenizer.
    """
    model, engine = load_alone(path, base)
    held_out = model.trained.data.validation if model.trained else None
    folder = store or held_out
    if folder is None:
        raise DataError(f"no validation store of {model.path} is known", do="pass --store")
    _, windows = open_windows(folder, model, engine.config.data, samples)
    total, tokens = engine.evaluate(windows.micro_batches())
    loss = total / max(1, tokens)
    return Validation(loss, perplexity(loss), tokens, windows.samples, len(windows.windows))


def generate_text(
    path: Path, prompt: str, max_new_tokens: int, temperature: float, seed: int, base: Path | None = None
) -> str:
    """Prompt and continuation, until EOS, `max_new_tokens` or the end of the RoPE table; temperature 0 is greedy.

    transformers' key/value cache does it. Raises as `validate`; `DataError` also for a prompt without room after it,
    `NonFiniteError` for logits that are not numbers.
    """
    model = open_model(path, base)
    tokenizer = model.tokenizer
    ids = tokenizer.encode(prompt, bos=True) or [tokenizer.eos_id]  # an empty prompt: what stands before a text
    room = min(max_new_tokens, model.config.max_position_embeddings - len(ids))
    if room < 1:
        raise DataError(
            "the prompt fills the whole context", got=f"{len(ids)} tokens",
            expected=f"fewer than max_position_embeddings = {model.config.max_position_embeddings}", do="shorten it",
        )  # fmt: skip
    whole = as_transformers(model.config, model.source, torch.float32, tokenizer.bos_id, tokenizer.eos_id)
    options: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        options = {"do_sample": True, "temperature": temperature, "top_k": 0}
        torch.manual_seed(seed)
    x = torch.tensor([ids], device=platform.device())  # [1, s]
    with torch.no_grad():
        out = whole.generate(
            x, attention_mask=torch.ones_like(x), max_new_tokens=room, use_cache=True,
            eos_token_id=tokenizer.stop_ids, pad_token_id=tokenizer.eos_id,
            logits_processor=refusing_nan(), **options,
        )  # fmt: skip
    added = out[0, len(ids) :].tolist()
    said = tokenizer.until_stop(added)
    if len(said) == len(added):
        why = "--max-new-tokens" if room == max_new_tokens else "the end of the model's context"
        print(f"note: cut at {len(added)} new tokens ({why})", file=sys.stderr)
    return tokenizer.decode([*ids, *said])
