"""The loss with the vocabularies of Llama 3 and Qwen: exact on 1 to 4 tensor ranks, in memory that tokens do not add to."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from support.precision import error
from support.zygote import run_python
from torch import Tensor
from torch.nn.functional import cross_entropy, embedding

from megabiomed.kernels import linear_cross_entropy as module
from megabiomed.kernels.linear_cross_entropy import IGNORE_INDEX, Shard, linear_cross_entropy

LLAMA3, QWEN = 128_256, 151_936
WIDTH, Z_LOSS = 16, 1e-3
WORKER = Path(__file__).with_name("large_loss_worker.py")


@dataclass
class Ranks:
    """Tensor ranks in one process, one after the other, in two rounds: in the first one each only says what it sends.

    That depends on its own rows alone, so the second round has what all ranks send.
    """

    world: int
    turn: int = 0
    sent: list[list[Tensor]] = field(default_factory=list)
    complete: bool = False

    def size(self) -> int:
        """As a process group's."""
        return self.world

    def exchange(self, statistics: Tensor, shard: Shard) -> tuple[Tensor, None]:
        """In place of the all-gather."""
        if shard.alone:
            return statistics[None], None
        if not self.complete:
            self.sent[-1].append(statistics)
            return statistics[None].expand(self.world, -1, -1), None
        self.turn += 1
        return torch.stack([chunks[self.turn - 1] for chunks in self.sent]), None

    def losses(self, hidden: Tensor, weight: Tensor, labels: Tensor, **options: Any) -> list[Tensor]:
        """The loss on every rank; `weight` is whole."""
        share = -(-len(weight) // self.world)
        found = []
        for self.complete in (False, True):
            found.clear()
            for first in range(0, share * self.world, share):
                self.turn = 0
                self.sent += [] if self.complete else [[]]
                rows = weight[first : first + share]
                padding = weight.new_full((share - len(rows), weight.size(1)), torch.nan)  # is never read
                shard = Shard(first, len(rows), self)  # type: ignore[arg-type]
                found.append(linear_cross_entropy(hidden, torch.cat((rows, padding)), labels, shard, **options))
        return found


def problem(vocabulary: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(ids, gains of the hidden states, tied matrix, labels at the ends of the vocabulary and of every rank's rows)."""
    torch.manual_seed(0)
    edges = [0, vocabulary - 1, IGNORE_INDEX]
    edges += [
        -(-vocabulary // world) * rank - before for world, rank, before in ((2, 1, 1), (3, 2, 0), (4, 3, 0), (4, 3, 1))
    ]
    labels = torch.tensor(edges, device=device)
    ids = torch.randint(0, vocabulary, labels.shape, device=device)
    gains = torch.rand(len(labels), WIDTH, device=device).add(0.5).to(dtype)
    weight = torch.randn(vocabulary, WIDTH, device=device).to(dtype)
    return ids, gains.requires_grad_(), weight.requires_grad_(), labels


def in_torch(ids: Tensor, gains: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """torch's cross entropy in fp32 on all logits, with the z-loss; the head is the embedding."""
    gains, weight = gains.float(), weight.float()
    logits = (embedding(ids, weight) * gains) @ weight.t()
    squares = logits.logsumexp(-1).square() * (labels != IGNORE_INDEX)
    return cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="sum") + Z_LOSS * squares.sum()


# A sum of 150,000 products in fp32: torch's own gradients are as far from fp64.
TOLERANCE = {torch.float32: (3e-6, 1e-4), torch.bfloat16: (2e-3, 1.5e-2)}
"""Relative errors of the loss and of its gradients."""
EXACT, HALF = torch.float32, torch.bfloat16
CASES = [
    ("cpu", LLAMA3, EXACT, (1, 2, 3, 4)), ("cpu", QWEN, EXACT, (1, 2, 3, 4)), ("cpu", LLAMA3, HALF, (1, 4)),
    ("torch", QWEN, EXACT, (1, 3)), ("torch", LLAMA3, HALF, (3,)), ("triton", QWEN, EXACT, (1, 3)),
]  # fmt: skip


@pytest.mark.parametrize(("backend", "vocabulary", "dtype", "worlds"), CASES)
def test_a_tied_head_equals_torch_on_every_number_of_ranks(
    backend: str, vocabulary: int, dtype: torch.dtype, worlds: tuple[int, ...], device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if backend == "cpu" and device.type != "cpu":
        pytest.skip("a CPU path")
    ids, gains, weight, labels = problem(vocabulary, dtype, device)
    truth = in_torch(ids, gains, weight, labels)
    expected = torch.autograd.grad(truth, (gains, weight))
    for world in worlds:
        ranks = Ranks(world)
        monkeypatch.setattr(module, "_exchange", ranks.exchange)
        hidden = embedding(ids, weight) * gains
        losses = ranks.losses(hidden, weight, labels, z_loss=Z_LOSS, chunk_tokens=3, backend=backend)
        assert all(error(loss, truth) <= TOLERANCE[dtype][0] for loss in losses)
        # Each rank's gradients are its part of a sum over the ranks.
        found = torch.autograd.grad([loss.sum() for loss in losses], (gains, weight))
        for got, want in zip(found, expected):
            assert error(got, want) <= TOLERANCE[dtype][1], world


def test_ranks_with_fewer_rows_cut_the_tokens_where_the_others_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.CHUNK_BYTES, "cpu", 64)
    hidden, weight = torch.randn(19, 4), torch.randn(7, 4)
    labels = torch.randint(0, 7, (19,))
    for world in (2, 4, 5, 7):  # at 5 ranks the last one has no rows
        ranks = Ranks(world)
        monkeypatch.setattr(module, "_exchange", ranks.exchange)
        losses = ranks.losses(hidden, weight, labels)
        sizes = [[statistics.size(1) for statistics in chunks] for chunks in ranks.sent]
        assert sizes == [sizes[0]] * world
        assert len(sizes[0]) > 1
        assert all(error(loss, cross_entropy(hidden @ weight.t(), labels, reduction="sum")) < 1e-6 for loss in losses)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the memory of a process from /proc")
def test_memory_does_not_grow_with_tokens_times_vocabulary() -> None:
    tokens = 512
    done = run_python([str(WORKER), str(QWEN), str(tokens)], {**os.environ, "OMP_NUM_THREADS": "1"}, timeout_s=60)
    assert done.returncode == 0, done.stderr
    all_logits = tokens * QWEN * 4 / 2**20
    assert float(done.stdout) < 100 < all_logits / 2
