"""Candidates of `make bench-data` that turn the same JSON lines with a `text` into tokens on disk with the same tokenizer."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from bench import data_peers
from megabiomed.corpus import shards
from megabiomed.corpus.build import BuildOptions, build_corpus
from megabiomed.corpus.clean import CleanRules, clean
from megabiomed.corpus.clean_text import collapse_whitespace
from megabiomed.corpus.cleaned_parts import PartWriter, row_file
from megabiomed.corpus.entries import shard_folder
from megabiomed.corpus.generate import write_records
from megabiomed.corpus.readers import read_papers
from megabiomed.corpus.records import Paper, Rejects
from megabiomed.corpus.shards import TokenJob, tokenize_part
from megabiomed.data.store_parts import StoreFromParts, StorePart, copy_parts
from megabiomed.ground.files import sha256_file
from megabiomed.tokenizer.choose_encoder import choose_encoder
from megabiomed.tokenizer.files import open_tokenizer
from megabiomed.tokenizer.sentencepiece_bpe import train_tokenizer

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def inputs(folder: Path, papers: int) -> tuple[list[Path], Path, str]:
    """S2ORC files, a tokenizer, and a note on what they are: the real ones when present, generated ones otherwise."""
    files, model = sorted(SHARED.glob("s2orc/*.jsonl.gz")), SHARED / "tokenizer_32k" / "tokenizer.model"
    if files and model.is_file():
        return files, model, "real CC BY papers in S2ORC's layout, and texts of PubMedQA and MedMCQA; 32,000 pieces"
    write_records(folder / "generated.jsonl.gz", papers, 0)
    train_tokenizer(cleaned([folder / "generated.jsonl.gz"]), folder / "tokenizer.model", 4000)
    return [folder / "generated.jsonl.gz"], folder / "tokenizer.model", "generated papers; 4,000 pieces"


def cleaned(files: list[Path]) -> Iterator[str]:
    """Cleaned texts of papers."""
    rules, counts = CleanRules(require_medical_id=False), Counter[str]()
    for file in files:
        for paper in read_papers(file, rejects=Rejects()):
            if text := clean(paper, rules, counts):
                yield text


def more_texts() -> Iterator[str]:
    """Further real biomedical texts, so that the tokenizers see more than a few papers; none twice."""
    if (SHARED / "pubmedqa" / "ori_pqal.json").is_file():
        for record in json.loads((SHARED / "pubmedqa" / "ori_pqal.json").read_bytes()).values():
            yield "\n".join([record["QUESTION"], *record["CONTEXTS"], record["LONG_ANSWER"]])
    if (SHARED / "medmcqa" / "dev.json").is_file():
        for line in (SHARED / "medmcqa" / "dev.json").read_text().splitlines():
            record = json.loads(line)
            yield "\n".join(filter(None, (record["question"], record.get("exp"))))


def given_texts(files: list[Path]) -> Iterator[str]:
    """The `text` of JSON lines, white space collapsed as a build does."""
    for file in files:
        with file.open(encoding="utf-8") as lines:
            yield from (collapse_whitespace(json.loads(line)["text"], Counter()) for line in lines)


def write_texts(files: list[Path], output: Path, more: list[Path]) -> str:
    """The JSON lines that all candidates read, of papers, further real texts and `more` files; returns what is in them."""
    characters = 0
    words = 0
    different = set[str]()
    texts = dict.fromkeys(text for text in (*cleaned(files), *more_texts(), *given_texts(more)) if text.strip())
    with output.open("w", encoding="utf-8") as file:
        for number, text in enumerate(texts):
            row = {"text": text, "paper_id": str(number), "source": output.name, "line": number + 1, "offset": 0}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            found = text.split()
            characters, words = characters + len(text), words + len(found)
            different.update(found)
    return f"{characters:,} characters, {words:,} words, {len(different):,} different"


def own_tokenize(texts: Path, model: Path, folder: Path) -> int:
    """JSON lines -> the part that a build would have of them -> its tokenizing step -> .bin/.idx, provenance and manifest."""
    written = written_part(texts, folder)
    held = [tokenized(part, model, folder / part.name) for part in written]
    more = {"bos_id": 1, "eos_id": 2, "sources": []}
    store = StoreFromParts(folder / "store", held, model, open_tokenizer(model).vocab_size, more)
    for job in store.jobs:
        copy_parts(job)
    store.publish({file.name: sha256_file(file) for file in store.files})
    return sum(part.num_tokens for part in held)


def written_part(texts: Path, folder: Path) -> list[Path]:
    """JSON lines as parts that are cleaned already."""
    (shard := shard_folder(folder, 0)).mkdir()
    with closing(PartWriter(folder, 0, None, exact=False, near=False)) as written, texts.open("rb") as file:
        for number, line in enumerate(file):
            record = json.loads(line)
            text = record["text"]
            written.add(Paper(record["paper_id"], {}, "", None, text, {}, texts.name, number + 1, 0), text)
    return [shard / name for name in written.names]


def tokenized(part: Path, model: Path, folder: Path) -> StorePart:
    """A part as tokens, all of it for training."""
    split = folder.with_suffix(".npy")
    np.save(split, np.zeros(len(np.load(row_file(part))), np.int8))
    train = tokenize_part(TokenJob(part, split, folder, model, converted(model)))["train"]
    files = (folder / "train.bin", folder / "train.npy", folder / "train.jsonl")
    return StorePart(*files, train["documents"], train["tokens"], train["provenance_bytes"])


def converted(model: Path) -> Path:
    """The tokenizer as GigaToken reads it, which a build makes once for all its parts and workers."""
    file = model.with_suffix(".gigatoken")
    if not file.exists():
        choice = choose_encoder(open_tokenizer(model), [])
        assert choice.converted is not None, choice.reason
        file.write_text(choice.converted, encoding="utf-8")
    return file


def own_build(texts: Path, model: Path, folder: Path) -> int:
    """`corpus build` of the JSON lines: reading, checking, cleaning, exact dedup, tokenizing, hashes, fsync."""
    options = BuildOptions(
        [texts], folder / "corpus", layout="text", tokenizer=model, validation_fraction=0.0, workers=1,
        rules=CleanRules(require_medical_id=False, min_words=1),
    )  # fmt: skip
    return int(build_corpus(options)["train"]["tokens"])


def plain_build(texts: Path, model: Path, folder: Path) -> int:
    """`corpus build` without rules and without the search for repeated papers, for texts that are clean and different."""
    off = {field.name: False for field in fields(CleanRules) if field.type == "bool"}
    options = BuildOptions(
        [texts], folder / "corpus", layout="text", tokenizer=model, validation_fraction=0.0, workers=1,
        rules=CleanRules(**off, min_words=0), exact_dedup=False,
    )  # fmt: skip
    return int(build_corpus(options)["train"]["tokens"])


def megatron(texts: Path, model: Path, folder: Path) -> int:
    """The way of Megatron-LM's tools/preprocess_data.py: an encoder over lines, then megatron-core's builder.

    In one process; the tool sends lines and ids through a pool, which costs it more than this.
    """
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder
    from megatron.core.tokenizers.text.libraries.sentencepiece_tokenizer import SentencePieceTokenizer

    tokenizer = SentencePieceTokenizer(str(model))
    end = int(tokenizer.tokenizer.eos_id())
    builder = IndexedDatasetBuilder(str(folder / "text.bin"), dtype=DType.optimal_dtype(tokenizer.vocab_size))
    tokens = 0
    with texts.open(encoding="utf-8") as file:
        for line in file:
            ids = tokenizer.text_to_ids(json.loads(line)["text"])
            ids.append(end)
            builder.add_document(ids, [len(ids)])
            tokens += len(ids)
    builder.finalize(str(folder / "text.idx"))
    return tokens


def datasets_map(texts: Path, model: Path, folder: Path) -> int:
    """`datasets.map` in batches with the same tokenizer as a Hugging Face fast tokenizer; its Arrow file is the result."""
    import datasets
    from transformers import PreTrainedTokenizerFast

    datasets.disable_progress_bars()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(model.parent / "hf"))
    loaded = datasets.load_dataset("json", data_files=str(texts), split="train", cache_dir=str(folder / "cache"))

    def encode(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        ids = tokenizer(batch["text"], return_attention_mask=False, verbose=False)["input_ids"]
        return {"input_ids": ids, "length": [len(row) for row in ids]}

    mapped = loaded.map(encode, batched=True, remove_columns=loaded.column_names)
    return sum(mapped["length"])


def megatron_fast(texts: Path, model: Path, folder: Path) -> int:
    """See `data_peers.megatron_fast`."""
    tokenizer = open_tokenizer(model)
    return data_peers.megatron_fast(texts, converted(model), tokenizer.vocab_size, tokenizer.eos_id, folder)


def datatrove(texts: Path, model: Path, folder: Path) -> int:
    """See `data_peers.datatrove`."""
    return data_peers.datatrove(texts, model.parent / "hf" / "tokenizer.json", "</s>", folder)


KNOWN = "megabiomed, tokenizing step, its words known before"
BUILD = "megabiomed, whole corpus build"
PLAIN = "megabiomed, whole build of clean texts: no rules, no search for repeats"
FAST = "Megatron-LM preprocess_data_fast (GigaToken)"
TROVE = "datatrove JsonlReader + DocumentTokenizer"
PEERS = {"fast": FAST, "trove": TROVE}
CANDIDATES: dict[str, Callable[[Path, Path, Path], int]] = {
    "megabiomed, tokenizing step": own_tokenize,
    KNOWN: own_tokenize,
    BUILD: own_build,
    PLAIN: plain_build,
    "Megatron-LM preprocess_data + IndexedDatasetBuilder": megatron,
    FAST: megatron_fast,
    TROVE: datatrove,
    "datasets.map, batched, fast tokenizer": datasets_map,
}


def timed(candidate: str, texts: Path, model: Path, folder: Path) -> tuple[int, float, float]:
    """(tokens, CPU seconds, wall seconds) of one run in a new folder. All but KNOWN, which follows the run that learns them,
    begin without a remembered word.
    """
    folder.mkdir(parents=True)
    if candidate != KNOWN:
        shards._encoder.cache_clear()
    wall, cpu = time.monotonic(), time.process_time()
    tokens = CANDIDATES[candidate](texts, model, folder)
    return tokens, time.process_time() - cpu, time.monotonic() - wall


def s2orc_build(files: list[Path], model: Path, folder: Path) -> tuple[int, float]:
    """(tokens, CPU seconds) of a build from S2ORC's records: JSON in JSON, spans, selection, cleaning and all the rest."""
    cpu = time.process_time()
    options = BuildOptions(files, folder, tokenizer=model, validation_fraction=0.0, workers=1)
    report = build_corpus(options)
    return int(report["train"]["tokens"]), time.process_time() - cpu


def same_tokens(folder: Path) -> bool:
    """Whether our store and the peer's hold the same ids, but for the BOS that only ours writes."""
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    ours, theirs = (IndexedDataset(str(folder / name)) for name in ("own/store/tokens", "megatron/text"))
    same = all(np.array_equal(a[1:], b) for a, b in zip(ours, theirs))
    return len(ours) == len(theirs) and same
