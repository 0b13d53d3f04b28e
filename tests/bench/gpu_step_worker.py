"""One candidate of the training-step benchmark: Llama2 blocks of 7B width, bf16, packed documents of 2,048-4,096 tokens.

python gpu_step_worker.py CANDIDATE OUTPUT LAYERS
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from megabiomed.config import ModelConfig, RunConfig
from megabiomed.data.packing import MicroBatch, pack_window
from megabiomed.model.flops import flops_per_token, parameter_count
from megabiomed.model.fresh import SeededInit
from megabiomed.processes import platform

WARM_UP, STEPS = 3, 8
STATE_BYTES = 18  # a parameter: bf16 weight and gradient, fp32 gradient, master and two moments, and their transients
SHARE_FOR_STATE = 0.6


def config_of(layers: int, kernels: dict[str, Any]) -> RunConfig:
    big = platform.has_cuda()
    model: dict[str, Any] = {"max_position_embeddings": 8192, "num_hidden_layers": 1}
    if not big:
        model |= {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 4}
        model |= {"vocab_size": 500}
    model["num_hidden_layers"] = layers or (layers_that_fit(model) if big else 2)
    return RunConfig.model_validate(
        {
            "name": "gpu",
            "kernels": kernels,
            "model": model,
            "parallel": {"zero_stage": 1},
            "data": {"seq_length": 8192 if big else 256, "micro_batch_size": 1, "global_batch_size": 1},
            "train": {"steps": WARM_UP + STEPS, "precision": "bf16" if big else "fp32"},
        }
    )


def layers_that_fit(model: dict[str, Any]) -> int:
    memory = torch.cuda.get_device_properties(0).total_memory * SHARE_FOR_STATE
    one, two = (parameter_count(ModelConfig(**{**model, "num_hidden_layers": n})) for n in (1, 2))
    return max(1, min(32, int((memory / STATE_BYTES - one) / (two - one)) + 1))


def batch_of(config: RunConfig) -> MicroBatch:
    tokens = config.data.seq_length
    quarter = tokens // 4
    ids = np.random.default_rng(0).integers(0, config.model.vocab_size, tokens + 1)
    return MicroBatch.from_windows([pack_window(ids, np.cumsum([quarter, 2 * quarter, quarter + 1]))])


def ours(config: RunConfig, batch: MicroBatch) -> Callable[[], float]:
    from megabiomed.engine.build import build_engine
    from megabiomed.engine.mesh import build_mesh

    engine = build_engine(config, build_mesh(config.parallel))
    engine.load_weights(SeededInit(config.model, config.seed))
    return lambda: engine.train_step([batch], config.optimizer.lr).loss


def transformers(config: RunConfig, batch: MicroBatch, liger: bool) -> Callable[[], float]:
    """Llama with SDPA under the dense document mask, bf16 weights, torch's fused AdamW on fp32 masters."""
    from transformers import LlamaConfig, LlamaForCausalLM

    if liger:  # its norm, RoPE and SwiGLU; the loss below stays, since the model is called for its logits
        from liger_kernel.transformers import apply_liger_kernel_to_llama

        apply_liger_kernel_to_llama(fused_linear_cross_entropy=False)
    device, dtype = platform.device(), platform.DTYPES[config.train.precision]
    shape = {k: v for k, v in config.model.model_dump().items() if k not in ("init_from", "initializer_range")}
    with device:
        model = LlamaForCausalLM(LlamaConfig(**shape, attn_implementation="sdpa", use_cache=False)).to(dtype)
    masters = [p.detach().float().requires_grad_() for p in model.parameters()]
    optimizer = torch.optim.AdamW(masters, lr=config.optimizer.lr, betas=(0.9, 0.95), fused=True)
    moved = batch.to(device)
    index = torch.arange(moved.tokens.numel(), device=device)
    visible = ((index[None] <= index[:, None]) & (index[None] >= moved.documents.start[:, None]))[None, None]

    def step() -> float:
        logits = model(input_ids=moved.tokens[None], position_ids=moved.positions[None], attention_mask=visible).logits[
            0
        ]
        loss = torch.nn.functional.cross_entropy(logits.float(), moved.labels)
        loss.backward()
        for master, parameter in zip(masters, model.parameters()):
            assert parameter.grad is not None
            master.grad, parameter.grad = parameter.grad.float(), None
        torch.nn.utils.clip_grad_norm_(masters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for master, parameter in zip(masters, model.parameters()):
                parameter.copy_(master)
        return float(loss)

    return step


def main() -> None:
    platform.init_distributed()
    candidate, output, layers = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    config = config_of(layers, {"attention": "hopper"} if candidate.endswith("hopper") else {})
    batch = batch_of(config)
    if candidate.startswith("megabiomed"):
        step = ours(config, batch)
    else:
        step = transformers(config, batch, liger=candidate.endswith("liger"))
    times = []
    for number in range(WARM_UP + STEPS):
        platform.synchronize()
        began = time.perf_counter()
        step()
        platform.synchronize()
        if number >= WARM_UP:
            times.append(time.perf_counter() - began)
    seconds, tokens = sorted(times)[len(times) // 2], config.data.seq_length
    peak = platform.peak_flops()
    # Attention counts the pairs that see each other inside documents, not the window's: the same work for both candidates.
    seen = int(((batch.positions + 1).sum() / tokens).item())
    flops = flops_per_token(config.model, seen) * tokens
    result = {
        "case": f"training step, {config.model.num_hidden_layers} layers of width {config.model.hidden_size}, {tokens} tokens",
        "candidate": candidate,
        "seconds": round(seconds, 4),
        "tokens/s": round(tokens / seconds),
        "MFU": f"{flops / seconds / peak:.3f}" if peak else "n/a",
        "peak memory GiB": round(platform.peak_memory_bytes() / 2**30, 1),
    }
    output.write_text(json.dumps(result))
    platform.leave()


if __name__ == "__main__":
    main()
