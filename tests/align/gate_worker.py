"""One rank: three steps of an alignment whose second is refused, and the same run without it.

python gate_worker.py CASES.json OUTPUT.json
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from support.alignment import align_config, global_batch, replica_batch, run_config
from support.cases import one_by_one

from megabiomed.align.engine import AlignEngine
from megabiomed.engine.gate import Limits
from megabiomed.engine.mesh import build_mesh
from megabiomed.engine.replicas import Sums
from megabiomed.model.start_from import adapter_chain
from megabiomed.processes import platform


def engine_of(case: dict[str, Any]) -> AlignEngine:
    config, align = run_config(case), align_config(case)
    engine = AlignEngine(config, build_mesh(config.parallel, align.dedicated_encoder_ranks), align, align.stages[0])
    engine.load_weights(adapter_chain(None, config.model, config.seed))
    return engine


def run_case(case: dict[str, Any]) -> dict[str, Any]:
    engine, reference = engine_of(case), engine_of(case)
    mesh, applied = engine.mesh, []
    for step in range(3):
        batch = replica_batch(global_batch(case, step), mesh.replica or 0, mesh.size("replicas"))
        if step == 2:
            before = Sums.of(engine.held())
            engine.watch.after_update(before)
            engine.compare_next()
        engine.gate.limits = Limits(grad_norm=1e-9 if step == 1 else math.inf)
        applied.append(engine.align_step(batch, 1.0).applied)
        if step != 1:
            reference.align_step(batch, 1.0)
    pairs = zip(engine.fragments(), reference.fragments(), strict=True)
    equal = all(torch.equal(view, b.views[kind]) for a, b in pairs for kind, view in a.views.items())
    (broken,) = mesh.sum_over(dist.group.WORLD, float(not equal or applied != [True, False, True]))
    return {"broken": broken, "applied": applied, **_compared(engine, before)}


def _compared(engine: AlignEngine, before: Sums) -> dict[str, Any]:
    """What checks say of a step without damage, and tensors that they name when one bit flips on the last rank."""
    rank, held = dist.get_rank(), engine.held()
    compared = [each.name for sums in engine.compared for each in sums.held]
    shared = engine.encoders.held and engine.encoders.world > 1
    assert any(name.startswith("gradient of adaptor") for name in compared) == shared
    clean = before.differences() + engine.watch.changed(rank)
    clean += Sums.joined(engine.compared).differences()
    flipped = next(each for each in reversed(held) if each.tensor is not None)
    engine.watch.after_update(Sums.of(held))
    last = rank == dist.get_world_size() - 1
    if last:
        assert flipped.tensor is not None
        flipped.tensor.detach().view(-1).view(torch.int32)[1] ^= 4
    engine.watch.before_update(held)
    alike, changed = Sums.of(held).differences(), engine.watch.changed(rank)
    found = [told["tensor"] for told in alike] == [flipped.name] * bool(flipped.alike)
    found &= [told["tensor"] for told in changed] == [flipped.name] * last
    (missed,) = engine.mesh.sum_over(dist.group.WORLD, float(not found or bool(clean)))
    return {"missed": missed, "clean": clean}


def main() -> None:
    torch.set_num_threads(1)
    platform.init_distributed(timeout_s=60)
    found = one_by_one(json.loads(Path(sys.argv[1]).read_text()), run_case)
    if dist.get_rank() == 0:
        Path(sys.argv[2]).write_text(json.dumps(found))
    dist.destroy_process_group()
    platform.leave()


if __name__ == "__main__":
    main()
