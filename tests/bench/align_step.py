"""One rank of the step-time benchmark: encoder-first against encoding on every tensor rank, with real processes.

python -m bench.align_step OUTPUT; both engines hold the same weights and see the same batches, in turns.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from bench.bench_align import lengths
from megabiomed.align.engine import AlignEngine, _Share
from megabiomed.config import RunConfig
from megabiomed.config.align import AlignConfig
from megabiomed.data.packing import Inserts, MicroBatch
from megabiomed.encoders.esm2.alphabet import encode
from megabiomed.encoders.esm2.model import ProteinBatch
from megabiomed.encoders.exchange import Exchange
from megabiomed.encoders.schedule import EncoderItem
from megabiomed.engine.mesh import build_mesh
from megabiomed.kernels.documents import Documents
from megabiomed.model.fresh import SeededInit
from megabiomed.processes import messages, platform
from megabiomed.samples.multimodal.batch import AlignBatch, empty_ids

SEQ = 64
SAMPLES = 8
QUERIES = 16
ROUNDS = 3
LETTERS = np.frombuffer(b"ACDEFGHIKLMNPQRSTVWY", np.uint8)


class _NoExchange(Exchange):
    """Everybody encodes what it embeds; nothing travels."""

    def deliver(self, rows: Tensor) -> Tensor:
        return rows

    def give_back(self, gradients: Tensor) -> Tensor:
        return gradients


class RedundantEngine(AlignEngine):
    """Each tensor rank encodes all items of its replica, and keeps the graph, so that nothing is computed again."""

    def _encode(self, batch: AlignBatch, gradients: bool) -> tuple[Exchange, dict[str, _Share], list[MicroBatch]]:
        exchange = _NoExchange(self.mesh, batch.items, [self.mesh.rank] * len(batch.items))
        collated = ProteinBatch.of([batch.features(item) for item in batch.items])
        with torch.set_grad_enabled("protein" in self.encoders.trained):
            rows = self.encoders.encode("protein", collated)
        with torch.no_grad():
            out = self.encoders.adapt("protein", rows, collated.rows)
        share = _Share(list(range(len(batch.items))), collated, rows, [])
        return exchange, {"protein": share}, self._filled(batch, out, gradients)

    def _backward_one(self, modality: str, share: _Share, gradients: list[Tensor]) -> None:
        leaf = share.rows.detach().requires_grad_()
        out = self.encoders.adapt(modality, leaf, share.batch.rows)
        # Both ranks have the whole gradient, and the side modules sum over them.
        torch.autograd.backward(out, torch.cat(gradients) / self.mesh.size("tp"))
        if modality in self.encoders.trained:
            assert leaf.grad is not None
            share.rows.backward(leaf.grad)


def batches() -> list[AlignBatch]:
    """One batch a round: a protein of a real length in each sample."""
    rng, known = np.random.default_rng(4), lengths()[0]
    found = []
    for _ in range(ROUNDS + 1):
        proteins = [
            encode(bytes(LETTERS[rng.integers(0, 20, int(n) - 2)]).decode()) for n in rng.choice(known, SAMPLES)
        ]
        items = [EncoderItem("protein", 0, n, p.rows, QUERIES, 0, n) for n, p in enumerate(proteins)]
        micro = [_micro(rng.integers(3, 400, SEQ)) for _ in proteins]
        found.append(AlignBatch(micro, empty_ids(), 0, items, lambda item, held=proteins: held[item.row]))  # type: ignore[misc]
    return found


def _micro(tokens: Any) -> MicroBatch:
    index = torch.arange(SEQ, dtype=torch.int32)
    values = torch.from_numpy(tokens)
    return MicroBatch(tokens=values, labels=values, documents=Documents(index * 0, index * 0 + SEQ),
                      positions=index.long(), num_loss_tokens=SEQ, inserts=Inserts(torch.arange(1, 1 + QUERIES)))  # fmt: skip


def build(kind: type[AlignEngine], mode: str, cache: str | None) -> AlignEngine:
    """An engine on tensor parallel 2 with a 4 x 256 ESM-2 and a small language model."""
    model = {"vocab_size": 400, "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4,
             "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}  # fmt: skip
    run = {"name": "b", "model": model, "parallel": {"tensor_parallel_size": 2},
           "data": {"seq_length": SEQ, "micro_batch_size": 1, "global_batch_size": SAMPLES},
           "train": {"steps": 1, "precision": "fp32"}}  # fmt: skip
    protein = {"num_layers": 4, "hidden_size": 256, "num_attention_heads": 8, "cache": cache}
    stage = {"name": "s", "steps": 1, "protein": mode, "adaptor_lr": 1e-4, "encoder_lr": 1e-4}
    align = AlignConfig.model_validate({"protein": protein, "stages": [stage], "molecule": {"num_layers": 1, "hidden_size": 8},
                                        "protein_adaptor": {"kind": "resampler", "num_queries": QUERIES}})  # fmt: skip
    config = RunConfig.model_validate(run)
    engine = kind(config, build_mesh(config.parallel), align, align.stages[0])
    engine.load_weights(SeededInit(config.model, config.seed))
    return engine


def timed(engine: AlignEngine, batch: AlignBatch) -> tuple[float, float, float]:
    """(loss, seconds, processor seconds of the busiest rank) of one step."""
    dist.barrier()
    wall, used = time.perf_counter(), time.process_time()
    loss = engine.align_step(batch, 1.0).loss
    spent = torch.tensor([time.perf_counter() - wall, time.process_time() - used])
    dist.all_reduce(spent, op=dist.ReduceOp.MAX)
    return loss, float(spent[0]), float(spent[1])


def main() -> None:
    torch.set_num_threads(1)
    platform.init_distributed(timeout_s=300)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        cache = messages.broadcast(folder)
        for mode in ("full", "frozen"):
            engines = {"each tensor rank encodes all": build(RedundantEngine, mode, None),
                       "encoder-first plan": build(AlignEngine, mode, None)}  # fmt: skip
            if mode == "frozen":
                engines["encoder-first plan, features cached"] = build(AlignEngine, mode, cache)
            seen: dict[str, list[tuple[float, float, float]]] = {name: [] for name in engines}
            for batch in batches():
                for name, engine in engines.items():
                    if name.endswith("cached"):
                        timed(engine, batch)  # the epoch that fills the cache
                    seen[name].append(timed(engine, batch))
            first, plan = seen["each tensor rank encodes all"], seen["encoder-first plan"]
            assert max(abs(a[0] - b[0]) for a, b in zip(first, plan)) < 1e-4, "the engines compute different losses"
            peer = [statistics.median(r[k] for r in first[1:]) for k in (1, 2)]
            for name, results in seen.items():
                wall, used = (statistics.median(r[k] for r in results[1:]) for k in (1, 2))
                rows.append({"what": "seconds a step, 2 processes, tp 2", "case": f"protein encoder {mode}", "way": name,
                             "wall": round(wall, 3), "processor, busiest rank": round(used, 3),
                             "ratio wall": round(peer[0] / wall, 2), "ratio processor": round(peer[1] / used, 2)})  # fmt: skip
    if dist.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(rows))
    dist.barrier()
    dist.destroy_process_group()
    platform.leave()


if __name__ == "__main__":
    main()
