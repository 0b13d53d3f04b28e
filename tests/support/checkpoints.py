"""A model in memory, cut the way Megatron and ZeRO cut it, and ranks that are threads."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import torch

from megabiomed.checkpoint.commit import CheckpointWriter, Ranks, RunState
from megabiomed.checkpoint.logical import Box, Fragment, PlacedBox, Placement
from megabiomed.checkpoint.state import Topology, TrainerState
from megabiomed.config import RunConfig, to_yaml
from megabiomed.config.models import ModelConfig
from megabiomed.config.optimizers import ADAMW
from megabiomed.model.registry import architecture_of

MODEL = ModelConfig(
    vocab_size=53,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=8,
    num_key_value_heads=4,
)

CONFIG = to_yaml(
    RunConfig.model_validate(
        {
            "name": "test",
            "model": MODEL.model_dump(),
            "data": {"seq_length": 32},
            "train": {"steps": 9, "precision": "fp32"},
        }
    )
)


def placements(config: ModelConfig, tp: int, rank: int) -> list[Placement]:
    """How tensor rank `rank` of `tp` holds the model, in Megatron's layout: fused qkv by group, fused gate and up."""
    h = config.hidden_size
    d = config.head_size
    ffn = config.intermediate_size
    shapes = architecture_of(config).shapes

    def rows(name: str, offset: int, count: int) -> Box:
        return Box(name, shapes[name], (offset, 0), (count, h))

    def columns(name: str) -> Placement:
        width = shapes[name][1] // tp
        return Placement((h, width), (PlacedBox(0, Box(name, shapes[name], (0, rank * width), (h, width))),))

    def whole(name: str) -> Placement:
        return Placement((h,), (PlacedBox(0, Box.whole(name, (h,))),), replicated=True)

    def vocabulary(name: str) -> Placement:
        local = -(-config.vocab_size // (tp * 8)) * 8
        held = min(local, config.vocab_size - rank * local)
        return Placement((local, h), (PlacedBox(0, rows(name, rank * local, held)),) if held > 0 else ())

    def attention(prefix: str) -> Placement:
        per_group = config.num_attention_heads // config.num_key_value_heads * d
        groups = config.num_key_value_heads // tp
        pieces = []
        row = 0
        for group in range(rank * groups, (rank + 1) * groups):
            for part, size in (("q", per_group), ("k", d), ("v", d)):
                pieces.append(PlacedBox(row, rows(f"{prefix}.{part}_proj.weight", group * size, size)))
                row += size
        return Placement((row, h), tuple(pieces))

    def feed_forward(prefix: str) -> Placement:
        size = ffn // tp
        return Placement(
            (2 * size, h),
            tuple(
                PlacedBox(i * size, rows(f"{prefix}.{n}_proj.weight", rank * size, size))
                for i, n in enumerate(("gate", "up"))
            ),
        )

    found = [vocabulary("model.embed_tokens.weight")]
    for i in range(config.num_hidden_layers):
        p = f"model.layers.{i}"
        found += [
            whole(f"{p}.input_layernorm.weight"),
            attention(f"{p}.self_attn"),
            columns(f"{p}.self_attn.o_proj.weight"),
        ]
        found += [
            whole(f"{p}.post_attention_layernorm.weight"),
            feed_forward(f"{p}.mlp"),
            columns(f"{p}.mlp.down_proj.weight"),
        ]
    return [*found, whole("model.norm.weight"), vocabulary("lm_head.weight")]


def zero_fragments(
    held: list[Placement], tp_rank: int, start: int, stop: int, fill: float = float("nan")
) -> list[Fragment]:
    """Fragments of the range [start, stop) of all local parameters in one flat buffer, as ZeRO-1 cuts them."""
    storage = {kind: torch.full((stop - start,), fill) for kind in ADAMW.kinds}
    fragments, position = [], 0
    for placement in held:
        size = prod(placement.local_shape)
        low, high = max(start, position), min(stop, position + size)
        for part, box in placement.blocks(low - position, high - position) if low < high else ():
            flat = slice(position + part.start - start, position + part.stop - start)
            views = {kind: buffer[flat].view(box.shape) for kind, buffer in storage.items()}
            fragments.append(Fragment(box, views, owner=not placement.replicated or tp_rank == 0))
        position += size
    return fragments


def cut_world(config: ModelConfig, tp: int, cuts: list[float]) -> list[list[Fragment]]:
    """Fragments of every rank of tp x dp, dp = len(cuts) + 1; `cuts` are ZeRO boundaries as shares of the buffer."""
    ranks = []
    for tp_rank in range(tp):
        held = placements(config, tp, tp_rank)
        total = sum(prod(placement.local_shape) for placement in held)
        bounds = [0, *sorted(round(cut * total) for cut in cuts), total]
        ranks += [zero_fragments(held, tp_rank, low, high) for low, high in pairwise(bounds)]
    return ranks


def fill(ranks: list[list[Fragment]], truth: dict[str, dict[str, torch.Tensor]]) -> None:
    """Put the true values into every view."""
    for fragment in (fragment for rank in ranks for fragment in rank):
        for kind, view in fragment.views.items():
            whole = truth[kind][fragment.box.name]
            view.copy_(whole[fragment.box.slices_in(Box.whole(fragment.box.name, whole.shape))])


def random_truth(config: ModelConfig = MODEL, seed: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    """Random values for every kind and tensor."""
    generator = torch.Generator().manual_seed(seed)
    shapes = architecture_of(config).shapes
    return {
        kind: {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()} for kind in ADAMW.kinds
    }


def state(**changes: Any) -> RunState:
    """A small run state."""
    values: dict[str, Any] = {
        "trainer": TrainerState(global_step=1, tokens_consumed=4096, topology=Topology(tensor=2, data=2)),
        "architecture": MODEL.model_dump(mode="json"),
        "config_text": CONFIG,
        "expected": architecture_of(MODEL).shapes,
    }
    return RunState(**{**values, **changes})


def thread_ranks(world_size: int) -> list[Ranks]:
    """Ranks whose collectives are a barrier between threads."""
    barrier, slots = threading.Barrier(world_size, timeout=60), [None] * world_size

    def exchange(rank: int, value: Any) -> list[Any]:
        slots[rank] = value
        barrier.wait()
        found = list(slots)
        barrier.wait()
        return found

    def one(rank: int) -> Ranks:
        def gather(value: Any) -> list[Any] | None:
            found = exchange(rank, value)
            return found if rank == 0 else None

        return Ranks(rank, world_size, gather, lambda value: exchange(rank, value)[0])

    return [one(rank) for rank in range(world_size)]


def save_world(folder: Path, step: int, ranks: list[list[Fragment]], run: RunState, fence: Any = None) -> list[Any]:
    """Save with one thread a rank; gives each rank's path or exception."""

    def one(ranks_and_fragments: tuple[Ranks, list[Fragment]]) -> Any:
        try:
            mine = fence if ranks_and_fragments[0].rank == 0 else None
            return CheckpointWriter(folder, ranks_and_fragments[0], mine).save(step, ranks_and_fragments[1], run)
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(ranks)) as pool:
        return list(pool.map(one, zip(thread_ranks(len(ranks)), ranks)))


def run_and_die(work: Callable[[], None], events: int) -> bool:
    """Do `work` in a fork that dies without any clean-up at its n-th file-system operation; True when it finished."""
    child = os.fork()
    if child == 0:
        left = [events]

        def hook(event: str, _arguments: Any) -> None:
            if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"):
                left[0] -= 1
                if left[0] < 0:
                    os._exit(137)

        sys.addaudithook(hook)
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 137), code
    return code == 0
