"""One rank of `make bench-checkpoint`: one candidate saves and loads the state of one engine; rank 0 writes a JSON file.

python checkpoint_worker.py CANDIDATE FOLDER OUTPUT HIDDEN LAYERS ROUNDS TOKENS
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from bench.lost_time import Saving, lost_step_time
from megabiomed.checkpoint.background import BackgroundSaver
from megabiomed.checkpoint.commit import CheckpointWriter, Ranks, RunState
from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.checkpoint.state import TrainerState
from megabiomed.config import RunConfig
from megabiomed.config.optimizers import ADAMW
from megabiomed.data.packing import MicroBatch, pack_window
from megabiomed.engine.build import TrainEngine, build_engine
from megabiomed.engine.mesh import build_mesh
from megabiomed.model.fresh import SeededInit
from megabiomed.model.registry import architecture_of
from megabiomed.processes import messages, platform
from megabiomed.runs.checkpointing import PeakMemory

ZERO3: dict[str, Any] = {"zero_stage": 3}
FSDP2: dict[str, Any] = {"engine": "fsdp2"}
CANDIDATES: dict[str, dict[str, Any]] = {
    "megabiomed, ZeRO-3": ZERO3,
    "DeepSpeed save_checkpoint, ZeRO-3": ZERO3,
    "megabiomed, FSDP2": FSDP2,
    "torch DCP save, FSDP2": FSDP2,
    "torch DCP async_save, FSDP2": FSDP2,
}


NUMBER_OF_LOST = 2
"""Saves during training, before those that are timed alone."""


class Method:
    """save() returns how to wait until the checkpoint is whole; load() reads it back into the engine."""

    def __init__(self, engine: TrainEngine, folder: Path) -> None:
        self.engine, self.folder = engine, folder

    def save(self, step: int) -> Saving:
        raise NotImplementedError

    def load(self, step: int) -> None:
        raise NotImplementedError


class Ours(Method):
    def __init__(self, engine: TrainEngine, folder: Path) -> None:
        super().__init__(engine, folder)
        self.saver = BackgroundSaver(CheckpointWriter(folder, Ranks.of_group(dist.new_group(backend="gloo"))))

    def save(self, step: int) -> Saving:
        config = self.engine.config
        shapes = architecture_of(config.model).shapes
        state = RunState(TrainerState(global_step=step), config.model.model_dump(mode="json"), "", None, shapes)
        self.saver.save(step, self.engine.fragments(), state)
        return Saving(self.saver.wait, lambda: not self.saver.writing)

    def load(self, step: int) -> None:
        self.engine.load_state(Checkpoint.open(self.folder / f"step_{step:08d}"), step)


class DeepSpeed(Method):
    def save(self, step: int) -> Saving:
        self._engine().save_checkpoint(str(self.folder), tag=f"step_{step}")
        return _saved()

    def load(self, step: int) -> None:
        self._engine().load_checkpoint(str(self.folder), tag=f"step_{step}")

    def _engine(self) -> Any:
        return self.engine.data_parallel.deepspeed  # type: ignore[attr-defined]


class Dcp(Method):
    def _state(self) -> dict[str, Any]:
        inner: Any = self.engine.data_parallel
        model, optimizer = get_state_dict(inner.stage, inner.optimizer)
        return {"model": model, "optimizer": optimizer}

    def save(self, step: int) -> Saving:
        import torch.distributed.checkpoint as dcp

        dcp.save(self._state(), checkpoint_id=str(self.folder / f"step_{step}"))
        return _saved()

    def load(self, step: int) -> None:
        import torch.distributed.checkpoint as dcp

        inner: Any = self.engine.data_parallel
        state = self._state()
        dcp.load(state, checkpoint_id=str(self.folder / f"step_{step}"))
        set_state_dict(
            inner.stage, inner.optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
        )


class DcpAsync(Dcp):
    def __init__(self, engine: TrainEngine, folder: Path) -> None:
        super().__init__(engine, folder)
        self.group = dist.new_group(backend="gloo")

    def save(self, step: int) -> Saving:
        import torch.distributed.checkpoint as dcp

        future: Any = dcp.async_save(
            self._state(), checkpoint_id=str(self.folder / f"step_{step}"), process_group=self.group
        )
        return Saving(future.result, future.done)


def _saved() -> Saving:
    return Saving(lambda: None, lambda: True)


METHODS: dict[str, type[Method]] = {
    "megabiomed, ZeRO-1": Ours,
    "megabiomed, ZeRO-3": Ours,
    "DeepSpeed save_checkpoint, ZeRO-3": DeepSpeed,
    "megabiomed, FSDP2": Ours,
    "torch DCP save, FSDP2": Dcp,
    "torch DCP async_save, FSDP2": DcpAsync,
}


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    dist.barrier()
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def memcpy_seconds(engine: TrainEngine) -> float:
    """One copy of everything that this rank owns into memory that is already there, tensor by tensor."""
    views = [view for f in engine.fragments() if f.owner for view in f.views.values()]
    copies = [torch.zeros(view.shape) for view in views]

    def copy() -> None:
        for target, view in zip(copies, views):
            target.copy_(view)

    return statistics.median(timed(copy)[0] for _ in range(5))


def measure_lost(engine: TrainEngine, method: Method) -> dict[str, float]:
    """First of all, because the first save of a run is one of those whose lost step time counts."""
    data = engine.config.data
    ids = np.random.default_rng(dist.get_rank()).integers(0, engine.config.model.vocab_size, data.seq_length + 1)
    batch = MicroBatch.from_windows([pack_window(ids, np.array([data.seq_length // 2]))])

    def step() -> None:
        engine.train_step([batch], engine.config.optimizer.lr)

    for _ in range(3):
        step()
    with PeakMemory() as memory:  # the first save allocates its copy
        found = lost_step_time(step, method.save, NUMBER_OF_LOST)
    return found | {"first_save_peak_mib": memory.rise / 2**20}


def measure(method: Method, rounds: int) -> dict[str, float]:
    pauses = []
    commits = []
    loads = []
    save_memory: list[float] = []
    load_memory: list[float] = []
    for step in range(NUMBER_OF_LOST + 1, NUMBER_OF_LOST + rounds + 1):
        with PeakMemory() as memory:
            began = time.perf_counter()
            pause, saving = timed(partial(method.save, step))
            saving.wait()
            dist.barrier()
            commits.append(time.perf_counter() - began)
        pauses.append(pause)
        save_memory.append(memory.rise / 2**20)
    for _ in range(rounds):
        with PeakMemory() as memory:
            loads.append(timed(lambda: method.load(NUMBER_OF_LOST + rounds))[0])
        load_memory.append(memory.rise / 2**20)
    return {
        "pause_s": statistics.median(pauses),
        "commit_s": statistics.median(commits),
        "load_s": statistics.median(loads),
        "save_peak_mib": max(save_memory),
        "load_peak_mib": max(load_memory),
    }


def total_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    candidate = sys.argv[1]
    folder = Path(sys.argv[2])
    output = Path(sys.argv[3])
    hidden, layers, rounds, tokens = map(int, sys.argv[4:8])
    torch.set_num_threads(1)
    platform.init_distributed(timeout_s=600)
    shape = {
        "vocab_size": 8192,
        "hidden_size": hidden,
        "intermediate_size": hidden * 11 // 4,
        "num_hidden_layers": layers,
    }
    config = RunConfig.model_validate(
        {
            "name": "bench",
            "model": {**shape, "num_attention_heads": 8, "num_key_value_heads": 8},
            "parallel": CANDIDATES[candidate],
            "data": {"seq_length": tokens, "micro_batch_size": 1, "global_batch_size": 2},
            "train": {"steps": 1, "precision": "fp32"},
        }
    )
    engine = build_engine(config, build_mesh(config.parallel))
    engine.load_weights(SeededInit(config.model, config.seed))
    shutil.rmtree(folder, ignore_errors=True) if dist.get_rank() == 0 else None
    dist.barrier()
    folder.mkdir(parents=True, exist_ok=True)
    owned = sum(f.box.numel * 4 * len(ADAMW.kinds) for f in engine.fragments() if f.owner)
    method = METHODS[candidate](engine, folder)
    found = {"state_mib": owned / 2**20, **measure_lost(engine, method), **measure(method, rounds)}
    # Last, because the memory that it leaves to the allocator would hide the others' peaks.
    found["memcpy_s"] = memcpy_seconds(engine)
    everyone = messages.gather(found)
    if everyone is not None:
        worst = {key: max(part[key] for part in everyone) for key in found}
        output.write_text(json.dumps(worst | {"files_mib": total_bytes(folder) / (NUMBER_OF_LOST + rounds) / 2**20}))
    dist.barrier()
    platform.leave()


if __name__ == "__main__":
    main()
