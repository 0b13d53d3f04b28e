"""One tensor rank of the vocabulary-parallel loss: compares itself with the whole vocabulary in fp64.

python loss_worker.py OUTPUT
"""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch
import torch.distributed as dist
from support import interpreter
from support.precision import assert_close, error

from megabiomed.kernels.linear_cross_entropy import IGNORE_INDEX, Shard, linear_cross_entropy, reference
from megabiomed.processes import platform


def compare(vocabulary: int, backend: str, dtype: torch.dtype, z_loss: float) -> None:
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(1)
    hidden, weight = torch.randn(19, 32).to(dtype).requires_grad_(), (torch.randn(vocabulary, 32) / 3).to(dtype)
    labels = torch.randint(0, vocabulary, (19,))
    labels[::5] = IGNORE_INDEX
    rows = -(-vocabulary // world)
    size = max(0, min(rows, vocabulary - rank * rows))
    mine = torch.full((rows, 32), float("nan"), dtype=dtype)  # padding is never read
    mine[:size] = weight[rank * rows : rank * rows + size]
    mine.requires_grad_()
    shard = Shard(rank * rows, size, dist.group.WORLD)
    loss = linear_cross_entropy(hidden, mine, labels, shard, z_loss=z_loss, scale=0.5, chunk_tokens=7, backend=backend)
    loss.backward()
    assert hidden.grad is not None
    assert mine.grad is not None
    total = hidden.grad.float()
    dist.all_reduce(total)
    exact = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    truth = 0.5 * reference(*exact, labels, z_loss)
    truth.backward()
    assert error(loss, truth) <= (1e-6 if dtype == torch.float32 else 2e-3)
    assert_close(total, exact[0].grad, dtype, "dhidden")
    assert exact[1].grad is not None
    if size:
        assert_close(mine.grad[:size], exact[1].grad[rank * rows : rank * rows + size], dtype, "dweight")
    assert mine.grad[size:].eq(0).all()


def main() -> None:
    torch.set_num_threads(1)
    platform.init_distributed(timeout_s=60)
    backends = ["cpu", "torch"]
    if find_spec("triton") is not None and os.environ.get("TRITON_INTERPRET") == "1":
        interpreter.enable()
        backends.append("triton")
    for backend in backends:
        for dtype in (torch.float32, torch.bfloat16):
            compare(101, backend, dtype, 0.0)
        compare(101, backend, torch.float32, 1e-2)
        compare(4, backend, torch.float32, 0.0)  # 3 ranks: 2 + 2 + 0 rows
    dist.destroy_process_group()
    platform.leave()


if __name__ == "__main__":
    main()
