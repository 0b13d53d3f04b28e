"""What a save costs the training on a GPU: ours and torch's asynchronous one, of two blocks of 7B width.

python -m bench.gpu_save [--tiny] OUTPUT CANDIDATE...
"""

from __future__ import annotations

import argparse
import gc
import shutil
import tempfile
from pathlib import Path

import torch

from bench.checkpoint_worker import METHODS
from bench.gpu_step_worker import RepeatedInit, batches_of, config_of
from bench.lines import Lines
from bench.lost_time import GOAL, INTERVAL, lost_step_time
from megabiomed.engine.build import build_engine
from megabiomed.engine.mesh import build_mesh
from megabiomed.processes import platform

LAYERS = 2
PARALLEL = {"ZeRO-1": {"zero_stage": 1}, "ZeRO-3": {"zero_stage": 3}, "FSDP2": {"engine": "fsdp2"}}


def measure(lines: Lines, candidate: str, tiny: bool) -> None:
    """Two saves of one candidate, in a folder that is removed."""
    config = config_of(LAYERS, PARALLEL[candidate.rpartition(", ")[2]])
    engine = build_engine(config, build_mesh(config.parallel))
    engine.load_weights(RepeatedInit(config))
    batches = batches_of(config)
    folder = Path(tempfile.mkdtemp(prefix="save_"))
    try:
        method = METHODS[candidate](engine, folder)
        found = lost_step_time(
            lambda: engine.train_step(batches, config.optimizer.lr), method.save, undisturbed=5 if tiny else 15
        )
        held = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2
    finally:
        shutil.rmtree(folder)
    lines.row(
        **{
            "case": f"{held / 2**30:.2f} GiB a save, steps of {found['median_step_s']:.3f} s",
            "candidate": candidate,
            "pause s, first / later": f"{found['first_pause_s']:.2f} / {found['later_pause_s']:.2f}",
            "lost s, first / later": f"{found['first_lost_s']:.2f} / {found['later_lost_s']:.2f}",
            f"of {INTERVAL} steps": f"{found['share']:.2%}",
            "lost until committed s": f"{found['first_lost_until_committed_s']:.2f} / "
            f"{found['later_lost_until_committed_s']:.2f}",
            "committed after steps": f"{found['first_steps_until_committed']:.0f} / "
            f"{found['later_steps_until_committed']:.0f}",
            "slowest step / median": f"{max(found['first_slowest_step'], found['later_slowest_step']):.2f}",
            "goal": f"<= {GOAL:.0%}: {'yes' if found['share'] <= GOAL else 'no'}",
        }
    )


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--tiny", action="store_true")
    options.add_argument("output", type=Path)
    options.add_argument("candidates", nargs="+")
    asked = options.parse_args()
    platform.init_distributed()
    lines = Lines(asked.output)
    for candidate in asked.candidates:
        lines.each([candidate], lambda name: measure(lines, name, asked.tiny))
        gc.collect()
        if platform.has_cuda():
            torch.cuda.empty_cache()
    platform.leave()


if __name__ == "__main__":
    main()
