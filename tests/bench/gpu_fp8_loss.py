"""The loss of fp8 beside that of bf16: the same weights and batches, 200 steps of two blocks of 7B width.

python -m bench.gpu_fp8_loss [--tiny] OUTPUT UNIT
"""

from __future__ import annotations

import argparse
import gc
import statistics
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from bench.gpu_step_worker import RepeatedInit, config_of
from bench.lines import Lines
from megabiomed.config import RunConfig
from megabiomed.data.packing import MicroBatch, pack_window
from megabiomed.engine.build import build_engine
from megabiomed.engine.mesh import build_mesh
from megabiomed.processes import platform

LAYERS = 2
STEPS = 200
LAST = 10
LR = 3e-4
GOAL = 0.005


def batches(config: RunConfig, steps: int) -> Iterator[list[MicroBatch]]:
    """Tokens that depend on the one before, with Zipf's frequencies: there is something to learn."""
    rng = np.random.default_rng(1)
    tokens = config.data.seq_length
    words = config.model.vocab_size
    for _ in range(steps):
        drawn = rng.zipf(1.5, tokens + 1) % words
        ids = (drawn + 31 * np.roll(drawn, 1)) % words
        yield [MicroBatch.from_windows([pack_window(ids, np.array([tokens // 4, tokens // 2]))])]


def last_loss(precision: str, steps: int) -> float:
    """Mean loss of the last steps."""
    config = config_of(LAYERS, {"zero_stage": 1}, precision)
    config = config.model_copy(update={"data": config.data.model_copy(update={"global_batch_size": 1})})
    torch.manual_seed(0)
    engine = build_engine(config, build_mesh(config.parallel))
    engine.load_weights(RepeatedInit(config))
    losses = [engine.train_step(batch, LR).loss for batch in batches(config, steps)]
    print(f"   {precision}: first {losses[0]:.4f}, last {losses[-1]:.4f}", flush=True)
    return statistics.mean(losses[-LAST:])


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--tiny", action="store_true")
    options.add_argument("output", type=Path)
    options.add_argument("units", nargs="+")
    asked = options.parse_args()
    platform.init_distributed()
    lines, steps = Lines(asked.output), 20 if asked.tiny else STEPS

    def compare(unit: str) -> None:
        found = {}
        for precision in ("bf16", "fp8"):
            found[precision] = last_loss(precision, steps)
            gc.collect()
        away = abs(found["fp8"] / found["bf16"] - 1)
        shown = {name: round(value, 4) for name, value in found.items()}
        verdict = f"<= {GOAL:.1%}: {'yes' if away <= GOAL else 'no'}"
        lines.row(case=f"loss after {steps} steps", candidate=unit, **shown, difference=f"{away:.3%}", goal=verdict)

    lines.each(asked.units, compare)
    platform.leave()


if __name__ == "__main__":
    main()
