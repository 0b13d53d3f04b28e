"""DeepSpeed as the engines use it: its import, and its own configuration for one pipeline stage."""

from __future__ import annotations

import logging
import os
from typing import Any

from megabiomed.config import RunConfig
from megabiomed.engine import workarounds
from megabiomed.engine.fused_adamw import steps_in_one_pass
from megabiomed.model.registry import architecture_of
from megabiomed.processes import platform
from megabiomed.processes.uncompiled import uncompiled

_NO_CLIPPING = 1e30
_REDUCE_BUCKET = 500_000_000  # elements, DeepSpeed's default


def deepspeed_settings(config: RunConfig) -> dict[str, Any]:
    """DeepSpeed's own configuration for one stage. Accumulation over micro-batches belongs to the schedule."""
    parallel = config.parallel
    bf16 = config.train.compute_type == "bf16"
    trained = architecture_of(config.model).parameters(config.lora)
    clips_itself = parallel.zero_stage > 0 and steps_in_one_pass(config)
    # The bucket is allocated whole: half a billion elements would be most of a small run's memory.
    zero: dict[str, Any] = {"stage": parallel.zero_stage, "reduce_bucket_size": min(_REDUCE_BUCKET, trained)}
    if parallel.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": platform.has_cuda()}
    return {
        "train_micro_batch_size_per_gpu": config.data.micro_batch_size,
        "gradient_accumulation_steps": 1,  # more would divide the loss once per stage
        "managed_gradient_accumulation": parallel.zero_stage == 3,  # below 3 step() is the boundary, not every backward
        "gradient_clipping": 0.0 if clips_itself else config.optimizer.clip_grad_norm or _NO_CLIPPING,
        "zero_optimization": zero,
        # With offload DeepSpeed would insist on its own CPU Adam, which a compiler has to build first.
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        # Each gradient is added to its fp32 buffer when its hook fires, not after the backward pass.
        "bf16": {"enabled": bf16, "immediate_grad_update": bf16},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        # In effect never: DeepSpeed's own lines in the log.
        "steps_per_print": 10**9,
        # Its clock waits for the whole device before every forward pass and after every step.
        "timers": {"throughput": {"enabled": False}},
    }


def import_deepspeed() -> Any:
    """The module deepspeed, quiet; its import takes seconds."""
    if not platform.has_cuda():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # said, not guessed: guessing warns
    # DeepSpeed's autotuner would load MLflow, over a second of every rank's start.
    with workarounds.without_module("mlflow"):
        import deepspeed
    with uncompiled():  # the engine loads it whatever the optimizer is
        import deepspeed.runtime.zero.muon.muon_optimizer
    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)
    return deepspeed
