"""The certificate of an import: what all ranks hold and compute is what transformers computes from the folder."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from megabiomed.checkpoint.logical import Box
from megabiomed.config import RunConfig
from megabiomed.config.time_limits import time_limits
from megabiomed.data.packing import MicroBatch, pack_window
from megabiomed.engine.build import TrainEngine
from megabiomed.model.certificate import IMPORT_CERTIFICATE, Certificate, EngineLogits, certify
from megabiomed.model.linear import without_fp8
from megabiomed.model.reference import StoredTensors, max_diff, token_ids
from megabiomed.model.registry import architecture_of
from megabiomed.model.vocabulary import ExtendedSource, open_folder
from megabiomed.processes import messages, platform


def certify_import(engine: TrainEngine, config: RunConfig, tokenizer: Path) -> Certificate:
    """Certify an engine that was just filled from `model.init_from`, at any topology, and store it in the run folder.

    Every rank compares the weights that it holds with the folder; the engine's logits for fixed token ids, computed by
    all ranks together, are compared with transformers' by rank 0. Collective.

    Raises:
        CheckpointError: on all ranks, when anything differs.
    """
    assert config.model.init_from is not None
    folder = Path(config.model.init_from)
    source, stored = open_folder(config.model, tokenizer)
    # fp8 rounds inside products; the certificate is about weights and their layout. Encoder ranks multiply nothing.
    with without_fp8(engine.data_parallel.stage) if engine.mesh.in_model else nullcontext():
        logits = _logits(engine)
    worst = torch.tensor(_held_diff(engine, stored), dtype=torch.float64, device=platform.device())
    dist.all_reduce(worst, op=dist.ReduceOp.MAX)
    # Rank 0 streams the whole model through one device while the others wait.
    waiting = platform.patient_group(time_limits(config.train).patient_s)

    def compared() -> dict[str, Any]:
        shown = EngineLogits(_topology(engine), config.train.compute_type, logits, float(worst))
        own = None if isinstance(source, ExtendedSource) else tokenizer  # a larger vocabulary is not the folder's
        found = certify(folder, source, config.model, "import", str(folder), own, engine=shown, stored=stored)
        # Stored before it is judged: a certificate that fails is the evidence.
        found.store(config.folder / IMPORT_CERTIFICATE)
        found.check()
        return asdict(found)

    return Certificate(**messages.from_first(compared, waiting))


def _held_diff(engine: TrainEngine, stored: StoredTensors) -> float:
    """Largest difference between this rank's weights (masters of trained ones) and the folder."""
    worst, names = 0.0, architecture_of(engine.config.model).shapes
    # Beside adapters the weights are frozen and held in the compute type; fresh adapters add nothing to them.
    held = [*engine.fragments(), *engine.data_parallel.frozen_fragments()]
    for fragment in (f for f in held if f.box.name in names):
        box, view = fragment.box, fragment.views["param"].detach()
        there = stored.raw(box.name, box.slices_in(Box.whole(box.name, box.global_shape)))
        # In the type that the rank holds: a bf16 weight must equal the rounded one.
        worst = max(worst, max_diff(view.cpu().float(), there.to(view.dtype).float()))
    return worst


def _logits(engine: TrainEngine) -> torch.Tensor:
    """[b, s, v] logits of the fixed token ids, on every rank; all replicas compute the same."""
    ids = token_ids(engine.config.model)  # [b, s]
    windows = [pack_window(np.append(row, 0), np.empty(0, np.int64)) for row in ids.numpy()]
    return engine.logits(MicroBatch.from_windows(windows)).unflatten(0, tuple(ids.shape))  # [b, s, v]


def _topology(engine: TrainEngine) -> str:
    mesh, parallel = engine.mesh, engine.config.parallel
    kind = "fsdp2" if parallel.engine == "fsdp2" else f"zero{parallel.zero_stage}"
    return f"tp{mesh.size('tp')} pp{mesh.size('pp')} dp{mesh.size('dp')} {kind}"
