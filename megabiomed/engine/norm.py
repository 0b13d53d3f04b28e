"""The one rule for the global gradient norm: every element of the whole model counts exactly once."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from megabiomed.engine.mesh import Mesh


def global_grad_norm(gradients: Iterable[tuple[Tensor, bool]], mesh: Mesh, *, sharded: bool) -> Tensor:
    """L2 norm over the ranks of the model (and those that share its state).

    Args:
        gradients: (local gradient, replicated over the tensor ranks); replicated ones count on tensor rank 0 only.
        sharded: True when each rank along `shards` holds another part (ZeRO, FSDP), False when all hold the same.

    Returns:
        fp32 scalar tensor, equal on all ranks.
    """
    parts = [
        g.detach().float().pow(2).sum() for g, replicated in gradients if not replicated or mesh.coordinate("tp") == 0
    ]
    device = parts[0].device if parts else torch.device("cpu")
    total = torch.stack(parts).sum() if parts else torch.zeros((), device=device)
    # First the parts of one rank's state, then tensor ranks and stages: every element is in one sum.
    if sharded:
        dist.all_reduce(total, group=mesh.group("shards"))
    dist.all_reduce(total, group=mesh.group("model"))
    return total.sqrt()


def clip_(gradients: Iterable[Tensor], norm: Tensor, max_norm: float) -> None:
    """Scale gradients in place so that the global norm is at most `max_norm` (0 = off), as torch's clip_grad_norm_."""
    if max_norm <= 0:
        return
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(scale.to(gradient.device))
