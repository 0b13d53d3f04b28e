"""What becomes of the logits of one chunk of tokens: two numbers per token, then their own gradient; on torch and on a CPU."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

IGNORE_INDEX = -100
SCALE_ROWS = 4096
"""Rows of a half-precision gradient that exist in fp32 at a time while it is scaled."""


class ChunkOps(Protocol):
    """What a backend does with the logits [n, v] of a chunk.

    `target` [n] is the label minus the shard's first id; a label of another rank is a number outside of 0 to v - 1.
    """

    def statistics(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """([n] log of the sum of exponentials, [n] logit of the target, or 0 when another rank has it), fp32."""

    def gradient(
        self, logits: Tensor, target: Tensor, lse: Tensor, softmax_weight: Tensor, label_weight: Tensor
    ) -> Tensor:
        """softmax_weight * exp(logits - lse) - label_weight * [column == target]; may overwrite `logits`."""

    def loss_and_gradient(self, logits: Tensor, labels: Tensor, z_loss: float, scale: float) -> tuple[Tensor, Tensor]:
        """Both at once, where one rank has the whole vocabulary; may overwrite `logits`.

        Returns:
            [n] losses, fp32, without the scale, 0 where there is no target; [n, v] gradient of scale times their sum.
        """

    def rescale(self, gradient: Tensor, factor: Tensor) -> None:
        """gradient *= factor [1] in place; nothing is read or written when the factor is 1."""


def token_losses(lse: Tensor, own: Tensor, kept: Tensor, z_loss: float) -> Tensor:
    """[n] lse - own + z_loss lse^2; 0 for tokens without a target."""
    return (lse - own + z_loss * lse.square()).masked_fill(~kept, 0.0)


def gradient_weights(lse: Tensor, kept: Tensor, z_loss: float, scale: float) -> tuple[Tensor, Tensor]:
    """[n] weights of the softmax and of the label in the gradient of scale times the summed loss."""
    label_weight = kept.to(lse.dtype).mul_(scale)
    return label_weight * (1.0 + 2.0 * z_loss * lse), label_weight


class TorchChunkOps:
    """Chunk operations in plain torch."""

    def statistics(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """See `ChunkOps`."""
        wide = _wide(logits)
        return wide.logsumexp(-1), _own_logit(wide, target)

    def gradient(
        self, logits: Tensor, target: Tensor, lse: Tensor, softmax_weight: Tensor, label_weight: Tensor
    ) -> Tensor:
        """See `ChunkOps`."""
        p = (_wide(logits) - lse[:, None]).exp_().mul_(softmax_weight[:, None])
        return _minus_label(p, target, label_weight).to(logits.dtype)

    def loss_and_gradient(self, logits: Tensor, labels: Tensor, z_loss: float, scale: float) -> tuple[Tensor, Tensor]:
        """See `ChunkOps`."""
        lse, own = self.statistics(logits, labels)
        kept = labels != IGNORE_INDEX
        weights = gradient_weights(lse, kept, z_loss, scale)
        return token_losses(lse, own, kept, z_loss), self.gradient(logits, labels, lse, *weights)

    def rescale(self, gradient: Tensor, factor: Tensor) -> None:
        """See `ChunkOps`; on a GPU torch multiplies by 1 too, because the host does not know the factor."""
        if factor.device.type == "cpu" and factor.item() == 1.0:
            return
        if gradient.dtype in (torch.float32, torch.float64):
            gradient.mul_(factor)
            return
        # The factor stays in fp32: rounded to bf16 it would shift every element in the same direction.
        for part in gradient.split(SCALE_ROWS):
            part.copy_(part.float().mul_(factor))


class CpuChunkOps(TorchChunkOps):
    """The same in blocks of rows that stay in the cache, in place."""

    BLOCK_BYTES = 2**18  # of fp32 logits: fits the second-level cache of a core

    def statistics(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """See `ChunkOps`."""
        wide = _wide(logits)
        lse = torch.cat([part.logsumexp(-1) for part in wide.split(self._rows(wide))])
        return lse, _own_logit(wide, target)

    def gradient(
        self, logits: Tensor, target: Tensor, lse: Tensor, softmax_weight: Tensor, label_weight: Tensor
    ) -> Tensor:
        """See `ChunkOps`."""
        wide, rows = _wide(logits), self._rows(logits)
        # Without a z-loss a row has one weight, which moves into the exponent: a masked row becomes exp(-inf) = 0.
        weighted = not torch.equal(softmax_weight, label_weight)
        shift = lse.masked_fill(label_weight == 0, torch.inf) if weighted else lse - label_weight.log()
        for part, shift_part, weight in zip(wide.split(rows), shift.split(rows), softmax_weight.split(rows)):
            part.sub_(shift_part[:, None]).exp_()
            if weighted:
                part.mul_(weight[:, None])
        return _minus_label(wide, target, label_weight).to(logits.dtype)

    def _rows(self, logits: Tensor) -> int:
        return max(1, self.BLOCK_BYTES // max(1, logits.size(1) * 4))


def _own_logit(logits: Tensor, target: Tensor) -> Tensor:
    mine = (target >= 0) & (target < logits.size(1))
    if logits.size(1) == 0:
        return torch.zeros(logits.size(0), dtype=logits.dtype, device=logits.device)
    picked = logits.gather(1, target.where(mine, 0)[:, None])[:, 0]
    return picked.where(mine, 0.0)


def _minus_label(p: Tensor, target: Tensor, label_weight: Tensor) -> Tensor:
    """p with label_weight taken from each row's own target column, in place."""
    mine = (target >= 0) & (target < p.size(1))
    if p.size(1):
        p.scatter_add_(1, target.where(mine, 0)[:, None], -label_weight.where(mine, 0.0)[:, None])
    return p


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype in (torch.float32, torch.float64) else x.float()
