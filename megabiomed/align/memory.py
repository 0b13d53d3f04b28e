"""Bytes that a stage keeps on each rank, by arithmetic: weights, gradients, optimizer; activations excluded."""

from __future__ import annotations

from megabiomed.config import LoraConfig
from megabiomed.config.align import AdaptorConfig, AlignRunConfig, Esm2Config, GinConfig, StageConfig
from megabiomed.config.topology import data_parallel_size
from megabiomed.model.flops import parameter_count, state_bytes_per_rank

_TRAINED = 16  # fp32 weights, gradients and two moments


def state_bytes(config: AlignRunConfig, stage: StageConfig, world: int) -> dict[str, float]:
    """Bytes of each part on one of the ranks that hold it: with dedicated encoder ranks `language_model` on the others."""
    align, parallel = config.align, config.parallel
    if stage.language_model == "frozen":
        width = 2 if config.train.precision == "bf16" else 4
        share = parallel.tensor_parallel_size * parallel.pipeline_parallel_size
        model = parameter_count(config.model) / share * width
    else:
        lora = (config.lora or LoraConfig()) if stage.language_model == "lora" else None
        run = config.model_copy(update={"lora": lora})
        replicas = data_parallel_size(parallel, world, config.ranks_beside)
        model = sum(state_bytes_per_rank(run, replicas).values())
    sizes = {"molecule": gin_parameters(align.molecule), "protein": esm2_parameters(align.protein)}
    found = {"language_model": float(model)}
    for name, count in sizes.items():
        part, mode = getattr(align, name), getattr(stage, name)
        shards = (config.ranks_beside or world) if part.placement == "zero3" else 1
        found[name] = count * (_TRAINED if mode == "full" else 4) / shards
        if mode == "lora":
            found[name] += _TRAINED * lora_parameters(part) / shards
    width = config.model.hidden_size
    pairs = (align.molecule_adaptor, align.molecule), (align.protein_adaptor, align.protein)
    counts = [adaptor_parameters(adaptor, encoder.hidden_size, width) for adaptor, encoder in pairs]
    return found | {"adaptors": float(_TRAINED * sum(counts))}


def adaptor_parameters(config: AdaptorConfig, inputs: int, outputs: int) -> int:
    """Parameters of an adaptor from encoder width to hidden size."""
    square = outputs * outputs + outputs
    if config.kind == "resampler":
        return config.num_queries * outputs + 2 * (inputs * outputs + outputs) + square
    return inputs * outputs + outputs + (square if config.kind == "mlp" else 0)


def lora_parameters(config: Esm2Config | GinConfig) -> int:
    """Parameters of an encoder's LoRA: r (inputs + outputs) for each matrix."""
    w, r = config.hidden_size, config.lora.r
    if isinstance(config, GinConfig):
        return config.num_layers * 2 * r * 3 * w
    sides = {"fc1": 5 * w, "fc2": 5 * w}
    return config.num_layers * sum(r * sides.get(name, 2 * w) for name in config.lora.targets)


def esm2_parameters(config: Esm2Config) -> int:
    """Parameters of the trunk."""
    w = config.hidden_size
    layer = 4 * (w * w + w) + 2 * 4 * w * w + 5 * w + 4 * w
    return 33 * w + config.num_layers * layer + 2 * w


def gin_parameters(config: GinConfig) -> int:
    """Parameters of the graph network."""
    w = config.hidden_size
    return 123 * w + config.num_layers * (4 * w * w + 3 * w + 9 * w + 2 * w)
