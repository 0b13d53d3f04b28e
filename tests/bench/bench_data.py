"""`make bench-data`: encoding texts, building a token store with one and more workers, reading it, how full its windows are,
and opening one of 26 billion tokens; ours against Megatron-LM's ways, datatrove, `datasets.map`, and megatron-core's
GPTDataset under a DataLoader, in one run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import data_build, data_encode, data_load, data_peers, data_scale
from bench.record import FOLDER, store, table
from megabiomed.data.store import TokenStore
from megabiomed.tokenizer.files import open_tokenizer

Rows = list[dict[str, Any]]
PARTS = ("encode", "build", "scale", "load", "packing", "open")
LIMIT = 240
"""Seconds that one process of the last part may take."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--papers", type=int, default=2000, help="generated papers, where the real ones are not here")
    options.add_argument("--rounds", type=int, default=5, help="runs of each candidate, in turns")
    options.add_argument("--seconds", type=float, default=3.0, help="CPU seconds of reading per candidate and round")
    options.add_argument("--documents", type=int, default=6_000_000, help="documents of the store of 26 B tokens")
    options.add_argument("--texts", type=Path, action="append", default=[], help="further JSON lines with a `text`")
    options.add_argument("--part", action="append", choices=PARTS, help="only this one; the file keeps the others")
    options.add_argument("--beside", help="what else keeps the machine busy, for the notes")
    options.add_argument("--dry", action="store_true", help="print only, leave docs/benchmarks alone")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files, given, note = data_build.inputs(folder, asked.papers)
        model = folder / "model" / "tokenizer.model"
        (model.parent / "hf").mkdir(parents=True)
        shutil.copyfile(given, model)
        open_tokenizer(model).write_hugging_face(model.parent / "hf", open_tokenizer(model).vocab_size, 4096)
        amount = data_build.write_texts(files, folder / "texts.jsonl", asked.texts)
        parts: dict[str, Callable[[], Rows]] = {
            "encode": lambda: data_encode.rows(texts_of(folder), model, folder / "byte-level", asked.rounds),
            "build": lambda: build_rows(folder, model, files, asked.rounds),
            "scale": lambda: data_scale.rows(texts_of(folder), model, folder / "scale", max(1, asked.rounds // 2)),
            "load": lambda: load_rows(s2orc(folder, files, model), folder, asked),
            "packing": lambda: packing_rows(s2orc(folder, files, model)),
            "open": lambda: open_rows(folder, model, asked.documents),
        }
        results = {}
        for title in asked.part or PARTS:
            results[title] = parts[title]()
            print(f"\n{title}\n{table(results[title])}", flush=True)
    if not asked.dry:
        inputs = [note, *(f"{path.name} (--texts)" for path in asked.texts), amount]
        notes = [f"input: {'; '.join(inputs)}", *NOTES]
        notes += [f"also running: {asked.beside}"] if asked.beside else []
        kept, origins = earlier(set(PARTS) - set(results)) if asked.part else ([], {})
        measured = [{"part": title, **row} for title, rows in results.items() for row in rows]
        rows = sorted([*measured, *kept], key=lambda row: PARTS.index(row["part"]))
        print(store("data", rows, notes, **({"earlier parts": origins} if origins else {})))


def earlier(parts: set[str]) -> tuple[Rows, dict[str, str]]:
    """Rows of parts that were not measured now, from the file, and the date and commit of each part."""
    path = FOLDER / "data.json"
    if not path.is_file():
        return [], {}
    held = json.loads(path.read_bytes())
    rows = [row for row in held["results"] if row["part"] in parts]
    stamp = f"{held['date']}, commit {held['commit']}"
    return rows, {row["part"]: held.get("earlier parts", {}).get(row["part"], stamp) for row in rows}


def texts_of(folder: Path) -> list[str]:
    """The texts that all candidates read."""
    with (folder / "texts.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]


def s2orc(folder: Path, files: list[Path], model: Path) -> Path:
    """A store of the papers, built unless it is there."""
    if not (folder / "s2orc").exists():
        data_build.s2orc_build(files, model, folder / "s2orc")
    return folder / "s2orc" / "train"


NOTES = [
    "encode: medians of runs in turns, one thread, texts in memory; tokens / CPU second of the first pass of a new encoder "
    "and of its second one; loading is not timed. The ids of all texts are those of the reference (compared). GigaToken "
    "alone writes no BOS and EOS and leaves 32-bit arrays",
    "build: medians of runs in turns, single process, one thread; tokens / CPU second. All read the same cleaned text as JSON "
    "lines and write the same ids (compared). The whole build also cleans, hashes, drops duplicates and flushes to disk",
    "scale: the fastest of several runs in turns, a process each with its workers; 8 copies of half the texts with other ids "
    "and first words; scaling is of wall seconds, memory the largest resident peak of a process",
    "load: tokens / CPU second, 2,048-token windows in micro-batches of 4, in the reading process; page cache warm",
    "load and packing: the S2ORC papers alone; useful are tokens with a label",
    "open: a process each; 26 B tokens, log-normal document lengths, sparse token file, first batch of 192 samples from "
    "sample 9,000,000 on; memory is the growth of the resident peak",
]


def build_rows(folder: Path, model: Path, files: list[Path], rounds: int) -> Rows:
    missing = data_peers.missing()
    folders = dict(zip(data_build.CANDIDATES, ("own", "known", "build", "plain", "megatron", "fast", "trove", "map")))
    folders = {name: target for name, target in folders.items() if target not in missing}
    found: dict[str, list[float]] = {name: [] for name in folders}
    counts: dict[str, int] = {}
    for round_ in range(rounds + 1):  # the first one imports and is not counted
        for name, target in folders.items():
            shutil.rmtree(folder / target, ignore_errors=True)
            tokens, cpu, _ = data_build.timed(name, folder / "texts.jsonl", model, folder / target)
            counts[name] = tokens
            if round_:
                found[name].append(tokens / cpu)
                print(f"{name}: {tokens / cpu:,.0f} tokens/s of CPU", flush=True)
    assert data_build.same_tokens(folder), "the candidates wrote different tokens"
    names = ("megabiomed, tokenizing step", data_build.BUILD, data_build.PLAIN)
    ours, whole, plain = (median(found[name]) for name in names)
    rows: Rows = [
        {"candidate": name, "tokens": counts[name], "tokens/s/core": round(median(rates)),
         "min-max": f"{min(rates):,.0f}-{max(rates):,.0f}", "ours / it": round(ours / median(rates), 2),
         "whole build / it": round(whole / median(rates), 2), "build of clean texts / it": round(plain / median(rates), 2)}
        for name, rates in found.items()
    ]  # fmt: skip
    rows += [{"candidate": target, "tokens": f"not measured: {reason}"} for target, reason in missing.items()]
    tokens, cpu = data_build.s2orc_build(files, model, folder / "s2orc")
    rows.append(
        {
            "candidate": "megabiomed, corpus build from S2ORC's own records",
            "tokens": tokens,
            "tokens/s/core": round(tokens / cpu),
            "min-max": "one run",
            "ours / it": round(ours * cpu / tokens, 2),
            "whole build / it": round(whole * cpu / tokens, 2),
            "build of clean texts / it": "",
        }
    )
    return rows


def load_rows(path: Path, folder: Path, asked: argparse.Namespace) -> Rows:
    streams = {
        "megabiomed, contiguous": partial(data_load.own, path, "contiguous"),
        "megabiomed, best_fit": partial(data_load.own, path, "best_fit"),
        "GPTDataset + DataLoader, documents see each other": partial(data_load.peer, path, folder / "cache-a", False),
        "GPTDataset + DataLoader, documents apart": partial(data_load.peer, path, folder / "cache-b", True),
    }
    found: dict[str, list[float]] = {name: [] for name in streams}
    for _ in range(asked.rounds):
        for name, stream in streams.items():
            found[name].append(data_load.rate(stream, asked.seconds))
    ours = median(found["megabiomed, contiguous"])
    return [
        {"candidate": name, "M tokens/s/core": round(median(rates) / 1e6, 2),
         "min-max": f"{min(rates) / 1e6:.2f}-{max(rates) / 1e6:.2f}", "ours / it": round(ours / median(rates), 2)}
        for name, rates in found.items()
    ]  # fmt: skip


def packing_rows(path: Path) -> Rows:
    opened = TokenStore.open(path)
    return [*(data_load.packed(opened, kind) for kind in ("contiguous", "best_fit")), data_load.padded(opened)]


def open_rows(folder: Path, model: Path, documents: int) -> Rows:
    work = folder / "large"
    work.mkdir()
    run("make", work / "store", model, documents)
    candidates = {
        "megabiomed, contiguous": ("own", work / "store", "contiguous"),
        "megabiomed, best_fit": ("own", work / "store", "best_fit"),
        "megatron-core IndexedDataset, GPTDataset": ("megatron", work / "store"),
    }
    return [{"candidate": name, **run(*arguments)} for name, arguments in candidates.items()]


def run(*arguments: object) -> dict[str, Any]:
    """What bench.data_open prints, run in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "bench.data_open", *map(str, arguments)]
    where = Path(__file__).resolve().parents[1]
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=where, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired:
        return {"open s": f"not within {LIMIT} s"}
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    found: dict[str, Any] = json.loads(done.stdout.strip().rpartition("\n")[2] or "{}")
    return found


if __name__ == "__main__":
    main()
