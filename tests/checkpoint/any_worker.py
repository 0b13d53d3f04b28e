"""One rank of the any-to-any suite, for all topologies of one world size in one process start.

python any_worker.py save|load TOPOLOGIES.json FOLDER [OPTIMIZER_AS_JSON]
save: each topology trains SAVED steps, saves, and goes on to the end: its own uninterrupted run.
load: each topology loads what others saved (FOLDER/pairs.json; without it, what every topology saved) and trains from
there to the end.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed as dist

from megabiomed.checkpoint.catalog import step_name
from megabiomed.checkpoint.commit import CheckpointWriter, Ranks, RunState
from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.checkpoint.state import TrainerState
from megabiomed.config import RunConfig
from megabiomed.config.topology import check_run
from megabiomed.data.loader import open_training_data
from megabiomed.data.progress import DataProgress
from megabiomed.engine.build import TrainEngine, build_engine
from megabiomed.engine.mesh import build_mesh
from megabiomed.model.fresh import SeededInit
from megabiomed.model.registry import architecture_of
from megabiomed.processes import messages, platform
from megabiomed.runs.schedule import learning_rate

SAVED, STEPS = 2, 4
MODEL = {
    "vocab_size": 301,  # odd: every tensor-parallel size pads its last shard
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "initializer_range": 0.08,
}
OPTIMIZER = {"lr": 1e-2, "eps": 1e-4, "weight_decay": 0.1, "clip_grad_norm": 0.5, "warmup_steps": 3}


def config_of(parallel: dict[str, Any], store: str, optimizer: Mapping[str, Any] = MappingProxyType({})) -> RunConfig:
    """Warm-up and decay, so that a wrong step number shows in the losses."""
    windows = 1 if parallel.get("pipeline_parallel_size", 1) > 1 else 2  # a pipeline needs several micro-batches
    return RunConfig.model_validate(
        {
            "name": "any",
            "seed": 7,
            "model": MODEL,
            "parallel": parallel,
            "data": {"train": [{"path": store}], "seq_length": 32, "micro_batch_size": windows, "global_batch_size": 4},
            "optimizer": {**OPTIMIZER, **optimizer},
            "train": {"steps": STEPS, "precision": "fp32"},
        }
    )


def train(engine: TrainEngine, config: RunConfig, progress: DataProgress, first: int, last: int) -> Any:
    """Train steps [first, last) on the samples that follow `progress`; returns losses, norms and the new progress."""
    mesh = engine.mesh
    loader = open_training_data(config.data, config.seed, mesh.coordinate("replicas"), mesh.size("replicas"))
    loader.first_sample = progress.next_sample
    losses, norms = [], []
    batches = iter(loader)
    for step in range(first, last):
        batch = next(batches)
        result = engine.train_step(batch.micro_batches, learning_rate(step, STEPS, config.optimizer))
        progress = progress.advance(batch.sample_ids)
        losses.append(result.loss)
        norms.append(result.grad_norm)
    loader.close()
    return {"loss": losses, "grad_norm": norms, "ids": progress.ids_hash}, progress


def save(name: str, engine: TrainEngine, config: RunConfig, folder: Path) -> None:
    engine.load_weights(SeededInit(config.model, config.seed))
    _, progress = train(engine, config, DataProgress(), 0, SAVED)
    writer = CheckpointWriter(folder / name, Ranks.of_group(dist.new_group(backend="gloo")))
    architecture = config.model.model_dump(mode="json")
    state = RunState(TrainerState(data=progress), architecture, "", None, architecture_of(config.model).shapes)
    writer.save(SAVED, engine.fragments(), state)
    found, _ = train(engine, config, progress, SAVED, STEPS)
    write(folder / f"{name}.json", found)


def load(name: str, other: str, engine: TrainEngine, config: RunConfig, folder: Path) -> None:
    checkpoint = Checkpoint.open(folder / other / step_name(SAVED))
    engine.load_state(checkpoint, SAVED)
    found, _ = train(engine, config, checkpoint.trainer.data, SAVED, STEPS)
    costs = messages.gather([checkpoint.bytes_read, needed(engine)])
    write(folder / f"{name}<{other}.json", found | {"costs": costs})


def needed(engine: TrainEngine) -> int:
    """Bytes of this rank's masters and moments, and of its whole shard where compute weights are not made from masters."""
    held = sum(view.nbytes for fragment in engine.fragments() for view in fragment.views.values())
    if engine.config.parallel.engine == "fsdp2" or engine.config.parallel.zero_stage == 3:
        return held
    blocks = (box for placement in engine.data_parallel.stage.placements.values() for _, box in placement.blocks())
    return held + sum(4 * box.numel for box in blocks)


def write(path: Path, value: dict[str, Any]) -> None:
    if dist.get_rank() == 0:
        path.write_text(json.dumps(value))


def main() -> None:
    torch.set_num_threads(1)
    platform.init_distributed(timeout_s=120)
    mode = sys.argv[1]
    table = json.loads(Path(sys.argv[2]).read_text())
    folder = Path(sys.argv[3])
    chosen = folder / "pairs.json"
    writers = json.loads(chosen.read_text()) if chosen.exists() else {key: list(table) for key in table}
    for name, (world, parallel) in table.items():
        if world != dist.get_world_size():
            continue
        config = config_of(parallel, str(folder / "store"), json.loads(sys.argv[4]) if len(sys.argv) > 4 else {})
        check_run(config, world)
        engine = build_engine(config, build_mesh(config.parallel))
        if mode == "save":
            save(name, engine, config, folder)
        else:
            for other in writers[name]:
                load(name, other, engine, config, folder)
        platform.end_groups()
    dist.barrier()
    platform.leave()


if __name__ == "__main__":
    main()
