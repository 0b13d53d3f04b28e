"""One rank of the alignment parity suite: gradients after one step, parameters after three, for every case.

python parity_worker.py CASES.json OUTPUT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from support.alignment import align_config, global_batch, replica_batch, run_config
from support.cases import one_by_one
from torch.distributed.tensor import DTensor

from megabiomed.align.engine import AlignEngine
from megabiomed.engine.mesh import build_mesh
from megabiomed.model.start_from import adapter_chain
from megabiomed.processes import platform


def whole(tensor: Any) -> torch.Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def run_case(case: dict[str, Any], output: Path) -> None:
    config, align = run_config(case), align_config(case)
    mesh = build_mesh(config.parallel, align.dedicated_encoder_ranks)
    engine = AlignEngine(config, mesh, align, align.stages[0])
    engine.load_weights(adapter_chain(None, config.model, config.seed))
    losses, norms = [], []
    for step in range(3):
        batch = replica_batch(global_batch(case, step), mesh.replica or 0, mesh.size("replicas"))
        result = engine.align_step(batch, 1.0)
        losses.append(result.loss)
        norms.append(result.grad_norm)
    parameters = {name: whole(p) for name, p in engine.encoders._named() if not p.is_meta}
    held = {}
    for fragment in engine.data_parallel.fragments():
        key = f"{fragment.box.name}|{fragment.box.offset}|{fragment.box.shape}"
        held[key] = fragment.views["param"].detach().clone()
    torch.save(
        {"loss": losses, "norm": norms, "side": parameters, "lm": held}, output / f"{case['name']}.{mesh.rank}.pt"
    )
    engine.end()


def main() -> None:
    torch.set_num_threads(1)
    platform.init_distributed(timeout_s=60)
    one_by_one(json.loads(Path(sys.argv[1]).read_text()), lambda case: run_case(case, Path(sys.argv[2])))
    dist.destroy_process_group()
    platform.leave()


if __name__ == "__main__":
    main()
