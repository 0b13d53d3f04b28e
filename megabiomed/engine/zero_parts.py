"""Which elements of the parameters lie on this rank, as DeepSpeed's optimizers of ZeRO-1 to 3 keep them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class HeldPart:
    """The part of one parameter that is on this rank under ZeRO-1 to 3.

    Attributes:
        master: the flat fp32 partition that it lies in, which the optimizer steps.
        offset: its first element there.
        start, length: its first element in the flattened parameter, and its elements.
    """

    master: Tensor
    offset: int
    start: int
    length: int


def masters(optimizer: Any) -> list[Tensor]:
    """ZeRO-3: the flat fp32 partitions that the optimizer steps."""
    return list(optimizer.fp32_partitioned_groups_flat)


def partition(parameter: nn.Parameter, shard: int) -> tuple[int, int]:
    """ZeRO-3: (first element, elements) of a parameter on this rank; the last ranks' partitions end in padding."""
    start = parameter.partition_numel() * shard
    return start, max(0, min(parameter.partition_numel(), parameter.ds_numel - start))


def held_part(optimizer: Any, parameter: nn.Parameter, zero_stage: int, shard: int) -> HeldPart | None:
    """Where a trained parameter lies in this rank's masters; None where another rank has it."""
    if zero_stage == 3:
        group, offset, _ = optimizer.grad_position[optimizer.get_param_id(parameter)]
        held = HeldPart(optimizer.fp32_partitioned_groups_flat[group], offset, *partition(parameter, shard))
        return held if held.length else None
    # None on a rank whose partition holds nothing of the parameter.
    mapping = parameter._hp_mapping
    if mapping is None:
        return None
    master = optimizer.optimizer.param_groups[mapping.param_group_index]["params"][0]
    address = mapping.lp_fragment_address
    return HeldPart(master, mapping.hp_fragment_address.start, address.start, address.numel)


def gradient(optimizer: Any, parameter: nn.Parameter, zero_stage: int, shard: int) -> tuple[int, Tensor] | None:
    """This rank's part of a trained parameter's reduced gradient, before the step: (first element in it, values [n])."""
    if zero_stage == 3:
        start, length = partition(parameter, shard)
        held = optimizer.get_local_fp32_grad_for_param(parameter) if length else None
        return None if held is None else (start, held.reshape(-1)[:length])
    mapping = parameter._hp_mapping
    if mapping is None:
        return None
    address = mapping.lp_fragment_address
    values = mapping.get_lp_grad_fragment(parameter._index_in_param_group).reshape(-1)
    if values.numel() > address.numel:  # ZeRO-1 in bf16 adds up the whole gradient on each rank
        values = values[address.start : address.start + address.numel]
    return address.start, values


def reduces_whole(optimizer: Any) -> bool:
    """Whether every rank gets all of each reduced gradient: DeepSpeed's optimizer of ZeRO-1 in bf16."""
    return hasattr(optimizer, "fp32_groups_gradients")


def whole_gradients(optimizer: Any) -> dict[nn.Parameter, Tensor]:
    """The reduced fp32 gradients, where `reduces_whole`; flat or in the parameter's shape."""
    groups = zip(optimizer.bf16_groups, optimizer.fp32_groups_gradients, strict=True)
    return {parameter: value for group, values in groups for parameter, value in zip(group, values, strict=True)}


def gradient_part(optimizer: Any, parameter: nn.Parameter, shard: int) -> Tensor:
    """ZeRO-3: the reduced gradient of what this rank holds of a parameter, without padding."""
    whole: Tensor = optimizer._DeepSpeedZeroOptimizer_Stage3__param_id_to_grad_partition[parameter.ds_id]
    return whole.view(-1)[: partition(parameter, shard)[1]]
