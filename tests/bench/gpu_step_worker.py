"""Candidates of the training-step benchmark: Llama2 blocks of 7B width, bf16, packed documents of 2,048-4,096 tokens.

python -m bench.gpu_step_worker --layers=6 --profile=no|also|only OUTPUT CANDIDATE...
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.gpu_peers import transformers
from bench.gpu_profile import profile_step
from bench.lines import Lines
from megabiomed.checkpoint.logical import Box
from megabiomed.config import RunConfig
from megabiomed.data.packing import MicroBatch, pack_window
from megabiomed.engine.build import TrainEngine, build_engine
from megabiomed.engine.mesh import build_mesh
from megabiomed.kernels.dispatch import choices_of
from megabiomed.model.flops import palm_flops_per_token, training_flops, utilization
from megabiomed.model.registry import architecture_of
from megabiomed.processes import platform

WARM_UP, STEPS = 3, 7
MICRO_BATCHES = (1, 4)
OURS: dict[str, dict[str, Any]] = {
    "zero1": {"zero_stage": 1},
    "zero3": {"zero_stage": 3},
    "fsdp2": {"engine": "fsdp2"},
    "fp8": {"zero_stage": 1},
}
LEFT_OVER = 2**30
AGAIN = 75
"""Exit status that asks for a new process, because a candidate could not be removed from the device's memory."""
Step = Callable[[int], float]


class RepeatedInit:
    """Random weights that are made at once: every matrix repeats the same few million values; implements `TensorSource`."""

    def __init__(self, config: RunConfig) -> None:
        self._architecture = architecture_of(config.model)
        self._values = torch.randn(1 << 22)

    def read(self, box: Box, kind: str = "param") -> torch.Tensor:
        """Values of one box as fp32."""
        if kind != "param" or len(box.shape) == 1:
            return torch.full(box.shape, float(kind == "param"))
        repeats = -(-box.numel // len(self._values))
        values = self._values.repeat(repeats)[: box.numel].view(box.shape)
        return values * self._architecture.deviation(box.name)


def config_of(layers: int, parallel: dict[str, Any], precision: str = "") -> RunConfig:
    """Of the largest number of micro-batches."""
    big = platform.has_cuda()
    model: dict[str, Any] = {"max_position_embeddings": 8192, "num_hidden_layers": layers}
    if not big:
        model |= {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 4}
        model |= {"vocab_size": 500}
    data = {"seq_length": 8192 if big else 256, "micro_batch_size": 1, "global_batch_size": max(MICRO_BATCHES)}
    precision = precision or ("bf16" if big else "fp32")
    train = {"steps": WARM_UP + STEPS, "precision": precision}
    values = {"name": "gpu", "model": model, "parallel": parallel, "data": data, "train": train}
    return RunConfig.model_validate(values)


def batches_of(config: RunConfig) -> list[MicroBatch]:
    """Micro-batches of three documents, a quarter, a half and a quarter of the window, as the loader hands them over."""
    tokens, rng = config.data.seq_length, np.random.default_rng(0)
    ends = np.cumsum([tokens // 4, tokens // 2, tokens // 4 + 1])
    ids = [rng.integers(0, config.model.vocab_size, tokens + 1) for _ in range(config.data.global_batch_size)]
    found = [MicroBatch.from_windows([pack_window(each, ends)]) for each in ids]
    return [batch.pinned() for batch in found] if platform.has_cuda() else found


def ours(config: RunConfig, batches: list[MicroBatch]) -> Step:
    """One engine, with a schedule for each number of micro-batches."""
    mesh = build_mesh(config.parallel)
    built = build_engine(config, mesh)
    built.load_weights(RepeatedInit(config))
    engines = {}
    for number in MICRO_BATCHES:
        data = config.data.model_copy(update={"global_batch_size": number})
        engines[number] = TrainEngine(config.model_copy(update={"data": data}), mesh, built.data_parallel)
    return lambda number: engines[number].train_step(batches[:number], config.optimizer.lr).loss


class Measurement:
    """What one candidate is asked for.

    Args:
        profile: "no", "also" (after the times) or "only".
    """

    def __init__(self, lines: Lines, layers: int, profile: str) -> None:
        self.lines = lines
        self.layers = layers
        self.profile = profile

    def __call__(self, candidate: str) -> None:
        """Build a candidate, measure it and remove it."""
        began = time.perf_counter()
        own = candidate in OURS
        config = config_of(self.layers, OURS.get(candidate, {}), "fp8" if candidate == "fp8" else "")
        batches = batches_of(config)
        step = ours(config, batches) if own else transformers(config, batches, candidate)
        name = f"megabiomed {candidate}, {_attention(config)}" if own else candidate
        print(f"   {name}: built after {time.perf_counter() - began:.1f} s", flush=True)
        if self.profile != "only":
            for number in MICRO_BATCHES:
                self.time(name, config, batches[:number], step)
        if self.profile != "no":
            number = max(MICRO_BATCHES)
            for _ in range(2):
                step(number)
            profile_step(self.lines, f"{candidate}, {number} micro-batches", lambda: step(number))

    def time(self, name: str, config: RunConfig, batches: list[MicroBatch], step: Step) -> None:
        """Median of the steps, and what it is of the device's peak."""
        if platform.has_cuda():
            torch.cuda.reset_peak_memory_stats()
        times = [_timed(lambda: step(len(batches))) for _ in range(WARM_UP + STEPS)]
        seconds, tokens = statistics.median(times[WARM_UP:]), len(batches) * config.data.seq_length
        pairs, peak = sum(batch.visible_pairs for batch in batches), platform.peak_flops()
        flops = training_flops(config.model, tokens, pairs, recompute=config.parallel.activation_checkpointing)
        old = palm_flops_per_token(config.model, config.data.seq_length) * tokens
        shares = [utilization(count, seconds, 1, peak) for count in (flops.model, flops.hardware, old)]
        mfu, hfu, convention = ("n/a" if share is None else f"{share:.3f}" for share in shares)
        model = f"{config.model.num_hidden_layers} blocks of width {config.model.hidden_size}"
        self.lines.row(
            **{
                "case": f"{len(batches)} micro-batches of {config.data.seq_length} tokens, {model}",
                "candidate": name,
                "micro-batches": len(batches),
                "seconds": round(seconds, 4),
                "tokens/s": round(tokens / seconds),
                "MFU": mfu,
                "HFU": hfu,
                "6N + 12Lqs": convention,
                "peak memory GiB": round(platform.peak_memory_bytes() / 2**30, 1),
                "first step s": round(times[0], 2),
                "slowest / median": round(max(times[WARM_UP:]) / seconds, 3),
            }
        )


def _attention(config: RunConfig) -> str:
    dtype = platform.DTYPES[config.train.compute_type]
    model = config.model
    choices = choices_of(config.kernels, platform.device(), dtype, model.hidden_size, model.head_size)
    return f"auto ({choices['attention'].name})"


def _timed(call: Callable[[], object]) -> float:
    platform.synchronize()
    began = time.perf_counter()
    call()
    platform.synchronize()
    return time.perf_counter() - began


def _left_over() -> int:
    """Bytes on the device that a candidate did not give back."""
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
    gc.collect()
    if not platform.has_cuda():
        return 0
    torch.cuda.empty_cache()
    return torch.cuda.memory_allocated()


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--layers", type=int, required=True)
    options.add_argument("--profile", choices=("no", "also", "only"), required=True)
    options.add_argument("output", type=Path)
    options.add_argument("candidates", nargs="+")
    asked = options.parse_args()
    if any(candidate not in OURS for candidate in asked.candidates):
        import torch._dynamo  # before the CPU patches of platform, because it keys a table by what they replace
    platform.init_distributed()
    lines = Lines(asked.output)
    measurement = Measurement(lines, asked.layers, asked.profile)
    for number, candidate in enumerate(asked.candidates, 1):
        lines.each([candidate], measurement)
        if _left_over() > LEFT_OVER and number < len(asked.candidates):
            print(
                f"{candidate} left {torch.cuda.memory_allocated() / 2**30:.1f} GiB: a new process goes on",
                file=sys.stderr,
            )
            platform.leave(AGAIN)
    platform.leave()


if __name__ == "__main__":
    main()
