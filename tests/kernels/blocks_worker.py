"""One of two tensor ranks that train two steps with kernels forced, and with the automatic ones.

python blocks_worker.py OUTPUT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from support import interpreter
from support.parity import case_config, global_batches

from megabiomed.config import RunConfig
from megabiomed.data.packing import MicroBatch
from megabiomed.engine.build import build_engine
from megabiomed.engine.mesh import build_mesh
from megabiomed.model.fresh import SeededInit
from megabiomed.processes import platform

TRITON = {"attention": "triton", "norm": "triton", "swiglu": "triton", "loss": "triton", "loss_chunk_tokens": 20}
PLAIN = {"attention": "dense", "norm": "torch", "swiglu": "torch", "loss": "torch"}


def train(kernels: dict[str, Any], parallel: dict[str, Any], z_loss: float) -> list[tuple[float, float]]:
    plain = case_config({"name": "blocks", "parallel": parallel, "model": {"num_hidden_layers": 2}}).model_dump()
    plain["kernels"] = kernels
    plain["train"]["z_loss"] = z_loss
    plain["data"]["global_batch_size"] = 1
    config = RunConfig.model_validate(plain)
    mesh = build_mesh(config.parallel)
    engine = build_engine(config, mesh)
    engine.load_weights(SeededInit(config.model, config.seed))
    curve = []
    for _, windows in zip(range(2), global_batches(config)):
        batches = [MicroBatch.from_windows([window]) for window in windows[:1]]
        result = engine.train_step(batches, lr=1e-2)
        curve.append((result.loss, result.grad_norm))
    platform.end_groups()
    return curve


def main() -> None:
    torch.set_num_threads(1)
    platform.init_distributed(timeout_s=100)
    interpreter.enable()
    parallel: dict[str, Any] = {"tensor_parallel_size": 2, "sequence_parallel": True, "zero_stage": 1}
    recompute = {**parallel, "activation_checkpointing": "selective"}
    curves = {
        "auto": train({}, parallel, 0.0),
        "plain": train(PLAIN, parallel, 0.0),
        "triton": train(TRITON, parallel, 0.0),
        "triton recomputed": train(TRITON, recompute, 0.0),
        "auto z-loss": train({}, parallel, 1e-3),
        "triton z-loss": train(TRITON, parallel, 1e-3),
    }
    if dist.get_rank() == 0:
        (Path(sys.argv[1]) / "curves.json").write_text(json.dumps(curves))
    dist.destroy_process_group()
    platform.leave()


if __name__ == "__main__":
    main()
