"""Text generation from a checkpoint of any topology or an exported folder: transformers' key/value cache, one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from megabiomed.evaluate.model import open_model
from megabiomed.ground.errors import DataError
from megabiomed.model.as_transformers import as_transformers
from megabiomed.processes import platform


def generate_text(
    run: Path, prompt: str, max_new_tokens: int, temperature: float, seed: int, base: Path | None = None
) -> str:
    """Prompt and continuation, until EOS, `max_new_tokens` or the end of the RoPE table; temperature 0 is greedy."""
    model = open_model(run, base)
    tokenizer = model.tokenizer
    ids = tokenizer.encode(prompt, bos=True)
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
            eos_token_id=tokenizer.eos_id, pad_token_id=tokenizer.eos_id, **options,
        )  # fmt: skip
    return tokenizer.decode([token for token in out[0].tolist() if token != tokenizer.eos_id])
