"""Load a checkpoint of any topology into one process for inference."""

from __future__ import annotations

from pathlib import Path

import torch.distributed as dist

from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.config import ParallelConfig, RunConfig
from megabiomed.config.kinds import stored_run
from megabiomed.engine.build import TrainEngine, build_engine
from megabiomed.engine.mesh import build_mesh
from megabiomed.model.origin import whole_model
from megabiomed.processes import platform


def load_single(checkpoint: Checkpoint, base: Path | None = None, **data: int) -> tuple[RunConfig, TrainEngine]:
    """The model of a checkpoint in this process (fp32, one replica).

    Args:
        base: where the model is beside which adapters were trained, if it has moved.
        data: replacements in the data section, e.g. micro_batch_size.
    """
    stored = stored_run(checkpoint.config_text, str(checkpoint.path))
    config = stored.model_copy(
        update={
            "lora": None,  # adapters are merged as they are read
            "parallel": ParallelConfig(zero_stage=0),
            "train": stored.train.model_copy(update={"precision": "fp32"}),
            "data": stored.data.model_copy(update={"global_batch_size": 1, "micro_batch_size": 1, **data}),
        }
    )
    if not dist.is_initialized():
        platform.init_alone()
    engine = build_engine(config, build_mesh(config.parallel))
    engine.load_weights(whole_model(checkpoint, base))
    return config, engine
