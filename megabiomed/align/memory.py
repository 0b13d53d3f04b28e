"""Bytes that a stage keeps on each rank, by arithmetic: weights, gradients, optimizer; activations excluded."""

from __future__ import annotations

import torch

from megabiomed.config import LoraConfig
from megabiomed.config.align import AlignmentStageConfig, AlignRunConfig
from megabiomed.config.modalities import Part, Training
from megabiomed.config.topology import data_parallel_size
from megabiomed.encoders.adaptors import adaptor_parameters
from megabiomed.encoders.encoder import encoder_of
from megabiomed.encoders.lora import add_lora, is_lora
from megabiomed.model.flops import copied_head, held_by_stages, state_bytes_per_rank


def state_bytes(config: AlignRunConfig, stage: AlignmentStageConfig, world: int) -> dict[str, float]:
    """Bytes of each part on one of the ranks that hold it: with dedicated encoder ranks `language_model` on the others."""
    align, parallel = config.align, config.parallel
    trained = 8 + config.optimizer.rule.moment_bytes  # fp32 weights, gradients and moments
    if stage.language_model == "frozen":
        width = 2 if config.train.compute_type == "bf16" else 4
        held = held_by_stages(config.model, parallel)
        held[-1] += copied_head(config.model, parallel)
        model = float(width * max(held))
    else:
        lora = (config.lora or LoraConfig()) if stage.language_model == "lora" else None
        run = config.model_copy(update={"lora": lora})
        replicas = data_parallel_size(parallel, world, config.extra_ranks)
        model = sum(state_bytes_per_rank(run, replicas).values())
    found, width = {"language_model": float(model)}, config.model.hidden_size
    adaptors = 0
    for part in align.parts():
        found[part.name] = _encoder_bytes(part, stage.mode(part.name), trained, config.extra_ranks or world)
        adaptors += adaptor_parameters(part.adaptor, part.encoder.hidden_size, width)
    return found | {"adaptors": float(trained * adaptors)}


def _encoder_bytes(part: Part, mode: Training, trained: int, ranks: int) -> float:
    shards = ranks if part.encoder.placement == "zero3" else 1
    # Of an encoder that is not fully trained, fp32 weights alone.
    held = encoder_of(part).parameters(part.encoder) * (trained if mode == "full" else 4) / shards
    return held + (trained * lora_parameters(part) / shards if mode == "lora" else 0.0)


def lora_parameters(part: Part) -> int:
    """Parameters of an encoder's low-rank updates, counted on a module without memory."""
    encoder = encoder_of(part)
    with torch.device("meta"):
        module = encoder.build(part.encoder)
        add_lora(module, part.encoder.lora, encoder.lora_matrices(part.encoder), 0)
    return sum(p.numel() for name, p in module.named_parameters() if is_lora(f".{name}"))
