"""A rank that counts what a step asks of the host: `python host_waits_worker.py CASES OUTPUT`; each rank writes a file."""

from __future__ import annotations

import json
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import torch
import torch.distributed as dist
from engine_worker import engine_of, micro_batches
from support.cases import one_by_one
from torch.utils._python_dispatch import TorchDispatchMode

from megabiomed.processes import platform

SETTLED = 3  # steps before DeepSpeed's clocks run
READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal")


class Reads(TorchDispatchMode):
    """Counts the operations whose result the host waits for, by the function outside torch that asks."""

    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name().partition(".")[0] in READS:
            self.found[place()] += 1
        return func(*args, **(kwargs or {}))


def place() -> str:
    """`file function` of the innermost frame outside torch and this file."""
    frames = [f for f in traceback.extract_stack() if "/torch/" not in f.filename and f.filename != __file__]
    return f"{Path(frames[-1].filename).name} {frames[-1].name}"


@contextmanager
def counted(holder: Any, name: str, found: Counter[str], keyword: str = "") -> Iterator[None]:
    """Inside, calls of `holder.name` are counted by their place; of those with a keyword alone, where one is given."""
    original: Callable[..., Any] = getattr(holder, name)

    def count(*args: Any, **kwargs: Any) -> Any:
        if not keyword or keyword in kwargs:
            found[place()] += 1
        return original(*args, **kwargs)

    setattr(holder, name, count)
    try:
        yield
    finally:
        setattr(holder, name, original)


@contextmanager
def gathers_on_a_gpu(optimizer: Any) -> Iterator[None]:
    """Inside, DeepSpeed gathers weights after a step as where the host does not compute itself."""
    from deepspeed.accelerator import get_accelerator

    kind: Any = type(get_accelerator())
    original, post_step = kind.resolves_data_dependency, getattr(optimizer, "_post_step", None)

    def gather(*args: Any) -> None:
        kind.resolves_data_dependency = lambda _: False
        try:
            post_step(*args)
        finally:
            kind.resolves_data_dependency = original

    optimizer._post_step = gather
    yield


def in_place(parameter: Any) -> bool:
    """Whether the weight that layers compute with is the memory that the optimizer writes."""
    return bool(parameter.data_ptr() == getattr(parameter, "ds_tensor", parameter).data_ptr())


def counts(case: dict[str, Any]) -> dict[str, dict[str, int]]:
    from deepspeed.accelerator import get_accelerator
    from deepspeed.runtime.zero.parameter_offload import DeepSpeedZeRoOffload

    engine = engine_of(case)
    steps = micro_batches(engine)
    for batches in steps[:SETTLED]:
        engine.train_step(batches, lr=1e-3)
    found: dict[str, Counter[str]] = {kind: Counter() for kind in ("reads", "numbers", "device", "layers")}
    with (
        Reads(found["reads"]),
        counted(torch, "tensor", found["numbers"], "device"),
        counted(get_accelerator(), "synchronize", found["device"]),
        gathers_on_a_gpu(engine.data_parallel.optimizer),
        counted(DeepSpeedZeRoOffload, "pre_sub_module_forward_function", found["layers"]),
    ):
        engine.train_step(steps[SETTLED], lr=1e-3)
    held = engine.data_parallel.stage.named_parameters()
    found["copies"] = Counter(name for name, parameter in held if not in_place(parameter))
    buckets = getattr(engine.data_parallel.optimizer, "ipg_buckets", {}).values()
    found["buffers"] = Counter(
        str(bucket.buffer.dtype) for bucket in buckets if getattr(bucket, "buffer", None) is not None
    )
    engine.end()
    return {kind: dict(places) for kind, places in found.items()}


def main() -> None:
    torch.set_num_threads(1)
    platform.init_distributed(timeout_s=120)
    found = one_by_one(json.loads(sys.argv[1]), counts)
    Path(sys.argv[2], f"rank_{dist.get_rank()}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()
    platform.leave()


if __name__ == "__main__":
    main()
