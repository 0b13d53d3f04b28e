"""Log-likelihood of continuations under a model of any topology, in training or loaded for evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from megabiomed.engine.build import TrainEngine
from megabiomed.engine.mesh import Mesh
from megabiomed.evaluate.packing import Request, ScoreBatch, empty_batch, pack
from megabiomed.ground.errors import NonFiniteError
from megabiomed.processes import platform

WINDOW_TOKENS = 4096
"""Tokens of one forward pass."""


@dataclass(frozen=True)
class Score:
    """Of one request.

    Attributes:
        logprob: sum of the log-probabilities of the continuation's tokens, in nats.
        greedy: whether the most likely continuation is this one.
        tokens: length of the continuation.
    """

    logprob: float
    greedy: bool
    tokens: int


def score(
    engine: TrainEngine, requests: Sequence[Request], window: int = WINDOW_TOKENS, share: bool = True,
    tick: Callable[[], None] = lambda: None,
) -> list[Score]:  # fmt: skip
    """Scores in the order of the requests, equal on every rank. Collective: all ranks bring the same requests.

    Replicas take turns at the windows; tensor ranks share the vocabulary; the last pipeline stage sums.

    Args:
        tick: called after each window of this rank; it may raise, on all ranks, to break off.

    Raises:
        NonFiniteError: on every rank, when the model gives NaN or infinity: the largest of NaNs would be the first option.
    """
    mesh, parallel = engine.mesh, engine.config.parallel
    multiple = parallel.tensor_parallel_size if parallel.sequence_parallel else 1
    windows = pack(requests, window, share, multiple)
    sums = torch.zeros(
        2, max(1, len(requests)), dtype=torch.float64
    )  # log-likelihood; tokens that are not the greedy ones
    engine.data_parallel.train(False)
    # Every shard takes windows of its own, also such as would share those of a training step: nothing is averaged here.
    try:
        for first in range(0, len(windows), mesh.size("shards")):
            mine = first + mesh.coordinate("shards")
            batch = (windows[mine] if mine < len(windows) else empty_batch(multiple)).to(platform.device())
            outputs = engine.pipeline.forward_only([batch.micro], return_logits=True)
            if outputs and batch.target.numel():
                _add(sums, outputs[0], batch, mesh, engine.config.model.vocab_size)
            tick()
    finally:
        engine.data_parallel.train(True)
    sums = sums.to(platform.device())
    dist.all_reduce(sums, group=mesh.everyone)
    total, missed = sums.cpu().tolist()
    broken = sum(not math.isfinite(value) for value in total)
    if broken:
        raise NonFiniteError(
            "the model gives log-likelihoods that are not numbers", got=f"NaN or infinity for {broken} of {len(requests)}",
            do="take a checkpoint from before the loss broke (`megabiomed plot`), or --precision fp32",
        )  # fmt: skip
    return [Score(total[n], missed[n] == 0, len(r.continuation)) for n, r in enumerate(requests)]


def _add(sums: Tensor, local: Tensor, batch: ScoreBatch, mesh: Mesh, vocab_size: int) -> None:
    """Add what this window says; one tensor rank of a replica adds, all of them compute."""
    logprob, greedy = target_logprobs(local.float(), batch.row, batch.target, mesh, vocab_size)
    if mesh.coordinate("tp") == 0:
        request = batch.request.cpu()
        sums[0].index_add_(0, request, logprob.double().cpu())
        sums[1].index_add_(0, request, (~greedy).double().cpu())


def target_logprobs(
    local: Tensor, row: Tensor, target: Tensor, mesh: Mesh, vocab_size: int
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Log-probability of targets, and whether they are the most likely tokens, from logits spread over the tensor ranks.

    Args:
        local: [n, v/tp] fp32 logits of this rank's part of the vocabulary; changed in place.
        row: [m] row of each target; target: [m] token ids.

    Returns:
        [m] fp32 and [m] bool, equal on the tensor ranks.
    """
    share = local.size(1)
    low = mesh.coordinate("tp") * share
    local[:, max(0, min(share, vocab_size - low)) :] = -torch.inf  # padding of the vocabulary
    largest = local.max(dim=1).values  # [n]
    dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=mesh.group("tp"))
    total = (local - largest[:, None]).exp_().sum(dim=1)  # [n]
    dist.all_reduce(total, group=mesh.group("tp"))
    here = (target >= low) & (target < low + share)
    found = torch.where(here, local[row, (target - low).clamp(0, share - 1)], 0.0)  # [m]
    dist.all_reduce(found, group=mesh.group("tp"))
    return found - largest[row] - total.log()[row], found >= largest[row]
