"""One rank: import Hugging Face folders at a tensor-parallel size and store the logits of fixed tokens."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from support.parity import case_config

from megabiomed.data.packing import MicroBatch, pack_window
from megabiomed.engine.build import build_engine
from megabiomed.engine.mesh import build_mesh
from megabiomed.model.hf_config import model_config_from_hf
from megabiomed.model.hf_folder import HuggingFaceSource
from megabiomed.processes import platform


def main() -> None:
    torch.set_num_threads(1)
    platform.init_distributed(timeout_s=120)
    size = int(sys.argv[1])
    for folder in map(Path, sys.argv[2:]):
        tokens = torch.load(folder / "expected.pt", weights_only=True)["tokens"]
        config = case_config({"name": "logits", "parallel": {"tensor_parallel_size": size, "zero_stage": 3}})
        config = config.model_copy(update={"model": model_config_from_hf(folder)})
        engine = build_engine(config, build_mesh(config.parallel))
        source = HuggingFaceSource(folder)
        engine.load_weights(source)
        # The way out is the way in: what a checkpoint or an export would write equals the file, to the bit.
        assert all(torch.equal(f.views["param"], source.read(f.box)) for f in engine.fragments())
        stream = torch.cat([tokens, tokens[:1]]).numpy()
        logits = engine.logits(MicroBatch.from_windows([pack_window(stream, stream[:0])]))
        if dist.get_rank() == 0:
            torch.save(logits, folder / f"tp{size}.pt")
        platform.end_groups()
    dist.barrier()
    dist.destroy_process_group()
    platform.leave()


if __name__ == "__main__":
    main()
