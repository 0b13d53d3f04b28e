"""Text generation from a training checkpoint. Plain recomputation of the prefix for every token; no key/value cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from megabiomed.checkpoint.report import newest
from megabiomed.corpus.tokenizer import Tokenizer
from megabiomed.data.packing import MicroBatch, pack_window
from megabiomed.engine.build import TrainEngine
from megabiomed.errors import CheckpointError
from megabiomed.evaluate.single import load_single


def generate_text(run: Path, prompt: str, max_new_tokens: int, temperature: float, seed: int) -> str:
    """Prompt and continuation, until EOS, `max_new_tokens` or the end of the RoPE table."""
    checkpoint = newest(run, hashes=False)
    if checkpoint.tokenizer is None:
        raise CheckpointError(f"{checkpoint.path} holds no tokenizer", do="use a checkpoint of a pretraining run")
    tokenizer = Tokenizer(checkpoint.tokenizer)
    config, engine = load_single(checkpoint)
    ids = tokenizer.encode(prompt, bos=True)
    limit = min(len(ids) + max_new_tokens, config.model.max_position_embeddings)
    return tokenizer.decode(continue_ids(engine, ids, limit, tokenizer.eos_id, temperature, seed))


def continue_ids(engine: TrainEngine, ids: list[int], limit: int, eos: int, temperature: float, seed: int) -> list[int]:
    """Append tokens until EOS or `limit` tokens; temperature 0 is greedy."""
    generator = torch.Generator().manual_seed(seed)
    ids = list(ids)
    while len(ids) < limit:
        stream = np.asarray([*ids, 0])
        logits = engine.logits(MicroBatch.from_windows([pack_window(stream, stream[:0])]))[-1].cpu()  # [v]
        if temperature == 0:
            following = int(logits.argmax())
        else:
            following = int(torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator))
        if following == eos:
            break
        ids.append(following)
    return ids
