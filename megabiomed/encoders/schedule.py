"""Who encodes what: one deterministic longest-processing-time plan over all ranks, made from metadata alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from megabiomed.config.align import AlignConfig, Esm2Config, GinConfig
from megabiomed.ground.errors import TopologyError

Modality = Literal["molecule", "protein"]
MODALITIES: tuple[Modality, ...] = ("molecule", "protein")


@dataclass(frozen=True)
class Item:
    """One molecule or protein of a global batch.

    Attributes:
        modality: which encoder.
        source, row: where its features are stored (number of the store, row of its table).
        rows_in, rows_out: rows of the encoder, embeddings in the language model.
        consumer: data-parallel rank whose samples hold it.
        sample: global number of the sample, for messages.
    """

    modality: Modality
    source: int
    row: int
    rows_in: int
    rows_out: int
    consumer: int
    sample: int


def cost(item: Item, config: AlignConfig) -> float:
    """FLOPs of one forward pass: matrices linear in the rows, attention quadratic."""
    if item.modality == "molecule":
        return gin_flops(config.molecule, item.rows_in)
    return esm2_flops(config.protein, item.rows_in)


def gin_flops(config: GinConfig, atoms: int) -> float:
    """FLOPs of a molecule of so many atoms."""
    return 2.0 * config.num_layers * 4 * config.hidden_size**2 * atoms


def esm2_flops(config: Esm2Config, tokens: int) -> float:
    """FLOPs of a protein of so many tokens."""
    width, layers = config.hidden_size, config.num_layers
    return 2.0 * layers * 12 * width**2 * tokens + 4.0 * layers * width * tokens**2


def longest_first(costs: Sequence[float], ranks: int) -> list[int]:
    """Owner of each item: the longest first, each to the rank with the least so far (Graham 1969); ties by number.

    Every rank computes the same plan, so that nothing is communicated.
    """
    load = [0.0] * ranks
    owners = [0] * len(costs)
    for index in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        rank = min(range(ranks), key=lambda r: (load[r], r))
        owners[index] = rank
        load[rank] += costs[index]
    return owners


def check_ranks(config: AlignConfig, world: int) -> None:
    """Refuse `encoder_ranks` that do not exist. Raises TopologyError; returns None when all do."""
    beyond = [rank for rank in config.encoder_ranks or () if rank >= world]
    if beyond:
        raise TopologyError(
            "align.encoder_ranks names ranks that do not exist",
            got=f"{beyond} in a world of {world}",
            do=f"name ranks from 0 to {world - 1}, or leave align.encoder_ranks out",
        )


def encoding_ranks(config: AlignConfig, world: int) -> Sequence[int]:
    """World ranks that encode: the dedicated ones, which are the last; or those that were chosen; or all."""
    if config.dedicated_encoder_ranks:
        return range(world - config.dedicated_encoder_ranks, world)
    return config.encoder_ranks or range(world)


def deal(items: Sequence[Item], config: AlignConfig, world: int) -> list[int]:
    """World rank that encodes each item: `longest_first` over the ranks that encode."""
    ranks = encoding_ranks(config, world)
    return [ranks[place] for place in longest_first([cost(item, config) for item in items], len(ranks))]


def imbalance(costs: Sequence[float], owners: Sequence[int], ranks: int) -> float:
    """Load of the busiest rank over the mean load; 1 is ideal."""
    load = [0.0] * ranks
    for index, owner in enumerate(owners):
        load[owner] += costs[index]
    return max(load) * ranks / max(sum(load), 1e-30)
