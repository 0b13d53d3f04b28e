"""What this package uses of megatron-core; nobody else imports it.

megatron-core decorates fused functions with `torch.compile` while it is imported. None of them is used here, and the first
one loads torch's compiler: 1.6 of the 4.2 seconds of processor time that the import takes on every rank.
"""

from __future__ import annotations

from megabiomed.processes.uncompiled import uncompiled

with uncompiled():
    from megatron.core import parallel_state
    from megatron.core.model_parallel_config import ModelParallelConfig
    from megatron.core.tensor_parallel import (
        ColumnParallelLinear,
        RowParallelLinear,
        VocabParallelEmbedding,
        copy_to_tensor_model_parallel_region,
        gather_from_sequence_parallel_region,
        reduce_from_tensor_model_parallel_region,
        reduce_scatter_to_sequence_parallel_region,
    )
    from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes

__all__ = [
    "ColumnParallelLinear",
    "ModelParallelConfig",
    "RowParallelLinear",
    "VocabParallelEmbedding",
    "copy_to_tensor_model_parallel_region",
    "gather_from_sequence_parallel_region",
    "parallel_state",
    "reduce_from_tensor_model_parallel_region",
    "reduce_scatter_to_sequence_parallel_region",
    "set_tensor_model_parallel_attributes",
]
