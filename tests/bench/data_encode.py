"""The part `encode` of `make bench-data`: texts in memory to token ids, ours against the libraries alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from megabiomed.corpus.shards import BATCH
from megabiomed.data.store import token_dtype
from megabiomed.tokenizer.choose_encoder import choose_encoder
from megabiomed.tokenizer.document_encoder import DocumentEncoder, load_gigatoken
from megabiomed.tokenizer.files import open_tokenizer
from megabiomed.tokenizer.interface import Tokenizer

Run = Callable[[list[str]], int]
"""Encodes texts and returns the number of tokens."""
_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
END = "<|end_of_text|>"


def rows(texts: list[str], model: Path, folder: Path, rounds: int) -> list[dict[str, Any]]:
    """Tokens a second of one core: the first pass over the texts, and a second one, which finds all words known."""
    found: list[dict[str, Any]] = []
    for kind, tokenizer in {
        "SentencePiece": open_tokenizer(model),
        "tokenizer.json": open_tokenizer(byte_level(texts, folder)),
    }.items():
        choice = choose_encoder(tokenizer, texts)
        assert choice.converted is not None, choice.reason
        assert choice.texts - choice.probes == len(texts), "every text was compared"
        candidates = {
            "megabiomed": partial(ours, tokenizer, choice.converted),
            "GigaToken alone": partial(theirs, choice.converted),
            choice.reference.split()[0]: partial(reference, tokenizer),
        }
        found += [{"tokenizer": kind, **row} for row in timed(candidates, texts, rounds)]
    return found


def ours(tokenizer: Tokenizer, converted: str) -> Run:
    """As a worker of a build does it: documents with BOS and EOS, as bytes."""
    dtype = token_dtype(tokenizer.vocab_size)
    return by_batches(partial(DocumentEncoder(tokenizer, converted).encode, dtype=dtype), dtype().itemsize)


def reference(tokenizer: Tokenizer) -> Run:
    """The library that the tokenizer comes from: SentencePiece text by text, `tokenizers` in batches."""
    dtype = token_dtype(tokenizer.vocab_size)
    return by_batches(partial(tokenizer.encode_documents, dtype=dtype), dtype().itemsize)


def by_batches(encode: Callable[[Iterable[str]], list[bytes]], size: int) -> Run:
    """Batches as in a build."""

    def run(texts: list[str]) -> int:
        rest = iter(texts)
        return sum(len(ids) // size for batch in iter(lambda: list(islice(rest, BATCH)), []) for ids in encode(batch))

    return run


def theirs(converted: str) -> Run:
    """GigaToken's arrays, with nothing done to them."""
    encode = load_gigatoken(converted)
    return lambda texts: sum(len(encode(text)) for text in texts)


def timed(candidates: dict[str, Callable[[], Run]], texts: list[str], rounds: int) -> list[dict[str, Any]]:
    """Candidates in turns, each made anew in every round; making it is not timed."""
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
    tokens: dict[str, int] = {}
    for _ in range(rounds):
        for name, make in candidates.items():
            run, passes = make(), []
            for _ in range(2):
                before = time.process_time()
                tokens[name] = run(texts)
                passes.append(tokens[name] / (time.process_time() - before))
            rates[name].append((passes[0], passes[1]))
    first, known = ({name: median(each[n] for each in held) for name, held in rates.items()} for n in (0, 1))
    return [
        {"candidate": name, "tokens": tokens[name], "tokens/s/core": round(first[name]),
         "min-max": f"{min(rates[name])[0]:,.0f}-{max(rates[name])[0]:,.0f}",
         "words known before": round(known[name]),
         "ours / it": round(first["megabiomed"] / first[name], 2),
         "ours / it, words known": round(known["megabiomed"] / known[name], 2)}
        for name in candidates
    ]  # fmt: skip


def byte_level(texts: list[str], folder: Path) -> Path:
    """A byte-level tokenizer.json that cuts texts as Llama-3's does, of 32,000 pieces at most, trained on the texts."""
    folder.mkdir()
    made = tokenizers.Tokenizer(models.BPE(ignore_merges=True))
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_SPLIT), "isolated"), bytes_of])
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=32_000, initial_alphabet=alphabet, special_tokens=[END], show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": END}))
    return folder / "tokenizer.json"
