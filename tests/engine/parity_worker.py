"""One rank of the parity suite: run every case of a JSON list in one process start and write what it computed.

python parity_worker.py CASES.json OUTPUT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from support.cases import one_by_one
from support.parity import STEPS, case_config, global_batches
from torch.distributed.tensor import DTensor

from megabiomed.config.topology import check_run
from megabiomed.data.packing import MicroBatch
from megabiomed.engine.build import TrainEngine, build_engine
from megabiomed.engine.fsdp import FsdpEngine
from megabiomed.engine.mesh import build_mesh
from megabiomed.engine.zero import ZeroEngine
from megabiomed.model.fresh import SeededInit
from megabiomed.model.start_from import adapter_chain
from megabiomed.processes import platform


def run_case(case: dict[str, Any], output: Path) -> None:
    config = case_config(case)
    check_run(config, dist.get_world_size())
    mesh = build_mesh(config.parallel)
    engine = build_engine(config, mesh)
    engine.base = adapter_chain(None, config.model, config.seed) if config.lora else None
    engine.load_weights(engine.base or SeededInit(config.model, config.seed))
    engine.record_gradients(True)
    losses = []
    norms = []
    pairs = []
    tensors = []
    for step, windows in zip(range(STEPS), global_batches(config)):
        share = len(windows) // mesh.size("replicas")
        mine = windows[mesh.coordinate("replicas") * share : (mesh.coordinate("replicas") + 1) * share]
        size = config.data.micro_batch_size
        batches = [MicroBatch.from_windows(mine[i : i + size]) for i in range(0, share, size)]
        if step == 1:  # an evaluation between two steps must disturb nothing
            engine.evaluate(batches[:1])
        result = engine.train_step(batches, lr=config.optimizer.lr)
        losses.append(result.loss)
        norms.append(result.grad_norm)
        tensors.append(engine.gradient_norms.read())
        pairs.append(result.visible_pairs)
    held = {}
    for number, fragment in enumerate(engine.fragments()):
        for kind, view in fragment.views.items():
            key = f"{number}|{kind}|{fragment.box.name}|{fragment.box.offset}|{fragment.box.shape}"
            held[key] = view.detach().clone().contiguous()
    folder = output / case["name"]
    folder.mkdir(parents=True, exist_ok=True)
    save_file(held, folder / f"rank_{mesh.rank}.safetensors")
    if mesh.rank == 0:
        curve = {"loss": losses, "grad_norm": norms, "visible_pairs": pairs, "gradient_norms": tensors}
        curve["optimizer_elements"] = optimizer_elements(engine)
        (folder / "curve.json").write_text(json.dumps(curve))
    engine.end()


def optimizer_elements(engine: TrainEngine) -> int:
    """Elements of the moments on this rank; frozen weights have none, and no gradients."""
    inner = engine.data_parallel
    assert isinstance(inner, ZeroEngine | FsdpEngine)
    assert all(p.grad is None for p in inner.stage.parameters() if not p.requires_grad)
    optimizer = inner.torch_optimizer() if isinstance(inner, ZeroEngine) else inner.optimizer
    moments = (state[kind] for state in optimizer.state.values() for kind in engine.config.optimizer.rule.moments)
    return sum(m.to_local().numel() if isinstance(m, DTensor) else m.numel() for m in moments)


def main() -> None:
    torch.set_num_threads(1)
    # torch.empty then holds NaN, so nothing that is read before it is written can pass by luck.
    torch.use_deterministic_algorithms(True, warn_only=True)
    platform.init_distributed(timeout_s=120)
    one_by_one(json.loads(Path(sys.argv[1]).read_text()), lambda case: run_case(case, Path(sys.argv[2])))
    dist.destroy_process_group()
    platform.leave()


if __name__ == "__main__":
    main()
