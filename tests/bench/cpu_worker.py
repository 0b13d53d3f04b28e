"""One rank of `make bench-cpu`: one candidate on the packed batches of one store; rank 0 prints a JSON line.

python cpu_worker.py CANDIDATE STORE
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from megabiomed.checkpoint.logical import Box
from megabiomed.config import RunConfig, shipped
from megabiomed.config.yaml_text import read_yaml
from megabiomed.data.loader import open_training_data
from megabiomed.data.packing import MicroBatch
from megabiomed.model.fresh import SeededInit
from megabiomed.model.registry import architecture_of
from megabiomed.processes import platform

WARM_UP = 1
OURS: dict[str, dict[str, Any]] = {
    "megabiomed tp2": {"tensor_parallel_size": 2, "zero_stage": 1},
    "megabiomed zero3 dp2": {"zero_stage": 3},
    "megabiomed zero1 dp2": {"zero_stage": 1},
    "megabiomed pp2": {"pipeline_parallel_size": 2, "zero_stage": 1},
    "megabiomed fsdp2 dp2": {"engine": "fsdp2"},
}


def config_of(store: str, parallel: dict[str, Any], seq_length: int, batch: int, steps: int) -> RunConfig:
    sizes = {"seq_length": seq_length, "micro_batch_size": 1, "global_batch_size": batch}
    data = {"train": [{"path": store}], "prefetch": 2, **sizes}
    return RunConfig.model_validate(
        {
            "name": "bench",
            "model": read_yaml(shipped.find("models", "tiny-30m").read_text(), "tiny-30m"),
            "parallel": parallel,
            "data": data,
            "optimizer": {"lr": 1e-4, "schedule": "constant", "warmup_steps": 0},
            "train": {"steps": WARM_UP + steps, "precision": "fp32"},
        }
    )


def ours(config: RunConfig) -> tuple[Callable[[list[MicroBatch]], float], int, int]:
    from megabiomed.engine.build import build_engine
    from megabiomed.engine.mesh import build_mesh

    mesh = build_mesh(config.parallel)
    engine = build_engine(config, mesh)
    engine.load_weights(SeededInit(config.model, config.seed))
    return (
        lambda batches: engine.train_step(batches, config.optimizer.lr).loss,
        mesh.coordinate("replicas"),
        mesh.size("replicas"),
    )


def hugging_face(config: RunConfig) -> Any:
    """transformers' Llama with the same weights. It takes the document mask as a dense 4-D mask, as packed training with
    SDPA does there."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {k: v for k, v in config.model.model_dump().items() if k not in ("init_from", "initializer_range")}
    model = LlamaForCausalLM(LlamaConfig(**shape, attn_implementation="sdpa", use_cache=False)).float()
    source, shapes = SeededInit(config.model, config.seed), architecture_of(config.model).shapes
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(source.read(Box.whole(name, shapes[name])))
    return model


def hugging_face_loss(model: Any, batch: MicroBatch, scale: float) -> torch.Tensor:
    index = torch.arange(batch.tokens.numel())
    visible = (index[None, :] <= index[:, None]) & (index[None, :] >= batch.documents.start[:, None])
    inputs = {"input_ids": batch.tokens[None], "position_ids": batch.positions[None]}
    inputs["attention_mask"] = visible[None, None]
    logits = model(**inputs).logits[0]
    return torch.nn.functional.cross_entropy(logits.float(), batch.labels, reduction="sum") * scale


def peer_deepspeed(config: RunConfig) -> Callable[[list[MicroBatch]], float]:
    import deepspeed
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    model = hugging_face(config)
    micro = config.data.global_batch_size // dist.get_world_size()
    settings = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": micro,
        "gradient_clipping": 1.0,
        "zero_optimization": {"stage": 3},
        "steps_per_print": 10**9,
        "zero_allow_untested_optimizer": True,
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.optimizer.lr, betas=(0.9, 0.95), fused=True)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings, dist_init_required=False)

    def step(batches: list[MicroBatch]) -> float:
        scale, total = global_scale(batches), 0.0
        for batch in batches:
            loss = hugging_face_loss(engine, batch, scale)
            engine.backward(loss * len(batches))  # DeepSpeed divides by the accumulation steps
            engine.step()
            total += float(loss.detach())
        return total

    return step


def peer_fsdp2(config: RunConfig) -> Callable[[list[MicroBatch]], float]:
    from torch.distributed.fsdp import fully_shard

    model = hugging_face(config)
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.optimizer.lr, betas=(0.9, 0.95), fused=True)

    def step(batches: list[MicroBatch]) -> float:
        scale, total = global_scale(batches), 0.0
        for batch in batches:
            loss = hugging_face_loss(model, batch, scale)
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return total

    return step


def global_scale(batches: list[MicroBatch]) -> float:
    tokens = torch.tensor(float(sum(batch.num_loss_tokens for batch in batches)))
    dist.all_reduce(tokens)
    return dist.get_world_size() / float(tokens)


def main() -> None:
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    torch.set_num_threads(1)
    platform.init_distributed()
    name = sys.argv[1]
    store = sys.argv[2]
    steps = int(sys.argv[6])
    config = config_of(store, OURS.get(name, {}), int(sys.argv[4]), int(sys.argv[5]), steps)
    dp_rank, dp = dist.get_rank(), dist.get_world_size()
    if name in OURS:
        step, dp_rank, dp = ours(config)
    else:
        step = (peer_deepspeed if "deepspeed" in name else peer_fsdp2)(config)
    loader = open_training_data(config.data, config.seed, dp_rank, dp)
    times = []
    first_loss = 0.0
    useful = 0
    for number, batch in zip(range(WARM_UP + steps), loader):
        dist.barrier()
        began = time.perf_counter()
        loss = step(batch.micro_batches)
        dist.barrier()
        if number == 0:
            first_loss = loss
        if number >= WARM_UP:
            times.append(time.perf_counter() - began)
            useful += sum(m.num_loss_tokens for m in batch.micro_batches)
    loader.close()
    totals = torch.tensor([float(useful), first_loss, float(platform.peak_memory_bytes())], dtype=torch.float64)
    dist.all_reduce(totals)
    shares = 1 if name in OURS and dp == 1 else dp
    if dist.get_rank() == 0:
        per_step = float(totals[0]) / (dist.get_world_size() / shares) / steps
        mean_loss = first_loss if name in OURS else float(totals[1]) / dist.get_world_size()
        result = {
            "seconds_per_step": statistics.median(times),
            "useful_tokens_per_s": per_step / statistics.median(times),
            "peak_memory_mib_all_processes": float(totals[2]) / 2**20,
            "first_loss": mean_loss,
        }
        Path(sys.argv[3]).write_text(json.dumps(result))
    dist.barrier()
    platform.leave()


if __name__ == "__main__":
    main()
