"""The output head over the tensor ranks: logits, or the loss without them."""

from __future__ import annotations

from torch import Tensor, nn

from megabiomed.config import KernelsConfig
from megabiomed.kernels.linear_cross_entropy import Shard, linear_cross_entropy
from megabiomed.model.tying import CopiedEnd
from megabiomed.processes.megatron_core import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
)


class VocabularyHead(nn.Module):
    """This rank's rows of the output matrix.

    Args:
        weight: [v/tp, h], a parameter, or what gives a tied one that is none here; rows after `shard.size` are padding.
    """

    fills_main_grad = True
    """Its weight gradient is added to `weight.main_grad` during forward, where an engine has set it and the scale is known."""

    def __init__(
        self, weight: nn.Parameter | CopiedEnd, shard: Shard, sequence_parallel: bool, kernels: KernelsConfig,
        z_loss: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.copied = weight if isinstance(weight, CopiedEnd) else None
        self.weight = weight if isinstance(weight, nn.Parameter) else None
        self.shard = shard
        self.sequence_parallel = sequence_parallel
        self.kernels, self.z_loss = kernels, z_loss

    def forward(
        self, x: Tensor, labels: Tensor | None = None, rows: Tensor | None = None, scale: float | None = None
    ) -> Tensor:
        """Logits [t, v/tp] of hidden states [., h]; with labels [t] their summed loss [1] fp32, times `scale`, equal on
        the ranks.

        With rows [n] the logits are [n, v/tp], of these tokens only. Evaluation leaves the z-loss out, so that validation
        losses compare across runs.
        """
        weight = self.weight if self.copied is None else self.copied.weight()
        assert weight is not None
        # Every rank has a part of the vocabulary, so the gradient of x is the sum over the ranks.
        if self.sequence_parallel:
            x = gather_from_sequence_parallel_region(x, tensor_parallel_output_grad=True)  # [t, h]
        else:
            x = copy_to_tensor_model_parallel_region(x)
        if labels is None:
            return nn.functional.linear(x if rows is None else x[rows], weight)  # [t or n, v/tp]
        return linear_cross_entropy(
            x, weight, labels, self.shard, z_loss=self.z_loss if self.training else 0.0, scale=scale,
            chunk_tokens=self.kernels.loss_chunk_tokens, backend=self.kernels.loss,
        )  # fmt: skip
