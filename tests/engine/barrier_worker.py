"""One rank of a world whose last rank is beside the model: ZeRO-3 is built, without its measure if asked. `... [bare]`"""

from __future__ import annotations

import sys
from contextlib import nullcontext

import torch.distributed as dist
from support.parity import case_config

from megabiomed.engine import workarounds
from megabiomed.engine.mesh import build_mesh
from megabiomed.engine.zero import ZeroEngine
from megabiomed.processes import platform

if __name__ == "__main__":
    if "bare" in sys.argv:
        workarounds.barriers_among = lambda ranks: nullcontext()
    platform.init_distributed(timeout_s=5 if "bare" in sys.argv else 60)
    config = case_config({"name": "beside", "parallel": {"zero_stage": 3}})
    mesh = build_mesh(config.parallel, extra_ranks=1)
    if mesh.in_model:
        ZeroEngine(config, mesh)
    dist.monitored_barrier(dist.new_group(backend="gloo"))
    platform.leave()
