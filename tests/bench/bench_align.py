"""`make bench-align`: balance of the encoder plan, redundant against encoder-first encoding, featurising with and without the
cache against torch-geometric's collation, and the memory of BioMedGPT-10B by arithmetic.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from support.spawn import run_ranks

from bench.record import store, table
from megabiomed.align.memory import state_bytes
from megabiomed.config import load_config
from megabiomed.config.align import AlignRunConfig
from megabiomed.encoders.esm2 import ESM2
from megabiomed.encoders.esm2.config import Esm2Config
from megabiomed.encoders.gin.featurise import Molecule, featurise
from megabiomed.encoders.gin.model import MoleculeBatch
from megabiomed.encoders.schedule import imbalance, longest_first
from megabiomed.samples.multimodal.building import BuildSettings, build_dataset
from megabiomed.samples.multimodal.generate import generate_questions
from megabiomed.samples.multimodal.store import QaStore
from megabiomed.tokenizer.sentencepiece_bpe import train_tokenizer

ESM2_3B = Esm2Config(num_layers=36, hidden_size=2560, num_attention_heads=40)
REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "esm2_sequences" / "train.parquet"


def lengths() -> tuple[list[int], str]:
    """Protein lengths in tokens: real ones when shared/data is there, else drawn like them."""
    if REAL.is_file():
        import pyarrow.parquet as pq

        texts = pq.read_table(REAL, columns=["sequence"])["sequence"].to_pylist()
        return [min(len(text), 1022) + 2 for text in texts if text], "UniRef90 sequences"
    drawn = np.random.default_rng(0).lognormal(5.7, 0.6, 10_000)
    return [int(min(n, 1022)) + 2 for n in drawn], "lognormal, median 300"


def balance() -> list[dict[str, Any]]:
    """Slowest rank over the mean, ESM-2-3B FLOPs, mean over 50 global batches."""
    known, source = lengths()
    rng, rows = np.random.default_rng(1), []
    for ranks, per_rank, tp in ((8, 4, 2), (8, 8, 2), (32, 8, 2), (32, 8, 8), (256, 8, 8)):
        plans: dict[str, list[float]] = {"redundant": [], "lands": [], "plan": []}
        for _ in range(50):
            costs = [ESM2.flops(ESM2_3B, int(n)) for n in rng.choice(known, ranks * per_rank)]
            lands = [number // per_rank for number in range(len(costs))]
            plans["lands"].append(imbalance(costs, lands, ranks))
            replicas = [number // (per_rank * tp) for number in range(len(costs))]
            plans["redundant"].append(imbalance(costs, replicas, ranks // tp) * tp)
            plans["plan"].append(imbalance(costs, longest_first(costs, ranks), ranks))
        means = {key: round(statistics.mean(values), 3) for key, values in plans.items()}
        rows.append({"what": "slowest rank / ideal", "case": f"{ranks} ranks, {per_rank} proteins each, tp {tp}, {source}",
                     "each tp rank encodes its replica's": means["redundant"], "where it lands": means["lands"],
                     "encoder-first plan": means["plan"]})  # fmt: skip
    return rows


def step_time() -> list[dict[str, Any]]:
    """Seconds of whole steps on two gloo processes, both ways in turns (bench/align_step.py)."""
    with tempfile.TemporaryDirectory() as name:
        output = Path(name) / "rows.json"
        run_ranks(2, ["-m", "bench.align_step", str(output)], Path(name) / "logs", timeout_s=1200)
        rows: list[dict[str, Any]] = json.loads(output.read_text())
    return rows


def rate(work: Callable[[], int], least_s: float = 1.0) -> float:
    """Molecules a second."""
    work()
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < least_s:
        done += work()
    return done / (time.perf_counter() - began)


def molecules() -> list[dict[str, Any]]:
    """Molecules per second on one core: from SMILES, from the Arrow cache, and torch-geometric's Batch from ready Data."""
    from torch_geometric.data import Batch, Data

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generate_questions(folder / "q.json", proteins=1)
        train_tokenizer(iter([(folder / "q.json").read_text()]), folder / "t.model", 400)
        build_dataset([folder / "q.json"], folder / "qa", folder / "t.model", None, BuildSettings("plain"))
        qa = QaStore(folder / "qa" / "all")
        count = int(qa.manifest["modalities"]["molecule"]["items"])
        smiles = [qa.item_text("molecule", row) for row in range(count)]
        cached = [qa.features("molecule", row) for row in range(count)]
        assert all(isinstance(m, Molecule) for m in cached)

        def data(m: Any) -> Data:
            return Data(torch.from_numpy(m.atoms.astype(np.int64)), torch.from_numpy(m.edges.astype(np.int64)),
                        torch.from_numpy(m.bonds.astype(np.int64)))  # fmt: skip

        ready = [data(m) for m in cached]
        rates = {
            "from SMILES": rate(lambda: len(MoleculeBatch.of([featurise(s) for s in smiles]).rows)),
            "from the Arrow cache": rate(
                lambda: len(MoleculeBatch.of([qa.features("molecule", r) for r in range(count)]).rows)
            ),
            "torch-geometric Batch of ready Data": rate(lambda: Batch.from_data_list(ready).num_graphs),
        }
    peer = rates["torch-geometric Batch of ready Data"]
    return [{"what": "molecules/s on one core", "case": key, "value": round(value), "ratio": round(value / peer, 2)}
            for key, value in rates.items()]  # fmt: skip


def memory() -> list[dict[str, Any]]:
    """Bytes of weights, gradients and optimizer of BioMedGPT-10B by arithmetic; nothing is measured here."""
    config, rows = load_config("biomedgpt-10b", None, AlignRunConfig), []
    for gpus in (8, 32):
        for stage in config.align.stages:
            held = state_bytes(config, stage, gpus)
            rows.append({"what": "GiB a GPU, predicted, no activations", "case": f"{gpus} GPUs, {stage.name}",
                         **{key: round(value / 2**30, 2) for key, value in held.items()},
                         "together": round(sum(held.values()) / 2**30, 2)})  # fmt: skip
    return rows


def main() -> None:
    groups = [balance(), step_time(), molecules(), memory()]
    for rows in groups:
        print(table(rows) + "\n", flush=True)
    notes = ["balance counts FLOPs of ESM-2-3B, not seconds; memory is arithmetic; GPUs: not measured"]
    print(store("align", [row for rows in groups for row in rows], notes))


if __name__ == "__main__":
    main()
