"""What a rank holds under ZeRO from one update to the next, and which ranks hold the same: for engine/replicas.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from megabiomed.engine import zero_parts
from megabiomed.engine.base import Held
from megabiomed.engine.gradient_norms import GradientPart

if TYPE_CHECKING:
    from megabiomed.engine.zero import ZeroEngine


def held(engine: ZeroEngine) -> Iterator[Held]:
    """Weights, masters and moments. Under ZeRO-3 a rank has its own part of every parameter, and small ones whole besides."""
    stage_number = engine.stage_number
    for name, parameter in engine.stage.named_parameters():
        whole, part = (engine.alike(name, over_shards) for over_shards in (True, stage_number == 0))
        if stage_number < 3:
            yield Held(name, parameter, whole)
        else:
            _, length = zero_parts.partition(parameter, engine.mesh.coordinate("shards"))
            yield Held(f"{name} (part)", parameter.ds_tensor.detach().view(-1)[:length], part)
            if parameter.ds_persist:
                # Not gathered after a step whose gradients were not finite.
                yield Held(name, parameter if parameter.data.numel() else None, whole)
        if parameter.requires_grad:
            for _, flats in engine.flat_state(parameter):
                for kind, flat in flats.items():
                    if kind != "param":
                        yield Held(f"{name} ({kind})", flat, part)
                    elif stage_number:  # else these are the weights
                        yield Held(f"{name} (master)", flat, part)


def gradients(engine: ZeroEngine) -> Iterator[Held]:
    """Whole gradients under ZeRO-0 and under ZeRO-1 in bf16, parts that tensor ranks share under ZeRO-3.

    DeepSpeed's other optimizer of ZeRO-1 and 2 has those of one group of parameters at a time.
    """
    first = engine.stage_number == 0
    whole = first or zero_parts.reduces_whole(engine.optimizer)
    if not whole and engine.stage_number < 3:
        return
    found = zero_parts.whole_gradients(engine.optimizer) if whole and not first else {}
    for name, parameter in engine.stage.named_parameters():
        groups = engine.alike(name, over_shards=whole)
        if not (parameter.requires_grad and groups):
            continue
        if whole:
            gradient = parameter.grad if first else found[parameter]
        else:
            shard = engine.mesh.coordinate("shards")
            gradient = zero_parts.gradient_part(engine.optimizer, parameter, shard)
        yield Held(f"gradient of {name}", gradient, groups)


def counted_gradients(engine: ZeroEngine) -> Iterator[GradientPart]:
    """This rank's parts of the reduced gradients, while DeepSpeed's step has not touched them; over all ranks each once."""
    for name, parameter in engine.stage.named_parameters():
        if not parameter.requires_grad or not engine.owns(name):
            continue
        if engine.stage_number == 0:
            held = None if parameter.grad is None else (0, parameter.grad)
        else:
            shard = engine.mesh.coordinate("shards")
            held = zero_parts.gradient(engine.optimizer, parameter, engine.stage_number, shard)
        if held is not None:
            yield GradientPart(engine.stage.placements[name], *held)
