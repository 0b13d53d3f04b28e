"""Who encodes what: one deterministic longest-processing-time plan over all ranks, made from metadata alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from megabiomed.config.align import AlignConfig
from megabiomed.encoders.encoder import encoder_of
from megabiomed.ground.errors import ConfigError, DataError, TopologyError


@dataclass(frozen=True)
class EncoderItem:
    """One molecule, protein or item of another modality of a global batch.

    Attributes:
        modality: its name.
        source, row: where its features are stored (number of the store, row of its table).
        rows_in, rows_out: rows of the encoder, embeddings in the language model.
        consumer: data-parallel rank whose samples hold it.
        sample: global number of the sample, for messages.
    """

    modality: str
    source: int
    row: int
    rows_in: int
    rows_out: int
    consumer: int
    sample: int


def largest(items: Sequence[EncoderItem]) -> str:
    """The items with most rows, for messages: `sample 17 protein of 1024 rows, ...`."""
    found = sorted(items, key=lambda item: -item.rows_in)[:4]
    return ", ".join(f"sample {item.sample} {item.modality} of {item.rows_in} rows" for item in found) or "no items"


def costs(items: Sequence[EncoderItem], config: AlignConfig) -> list[float]:
    """FLOPs of one forward pass of each item, as its encoder says.

    Raises:
        DataError: an item of a modality that the run does not have.
        ConfigError: an encoder says something that cannot be a cost.
    """
    parts = {part.name: (encoder_of(part), part.encoder) for part in config.parts()}
    found = []
    for item in items:
        if item.modality not in parts:
            raise DataError(
                f"an item is a {item.modality}, of which this run has no encoder", expected=f"one of {', '.join(parts)}",
                do=f"add align.modalities.{item.modality}, or leave the dataset out",
            )  # fmt: skip
        encoder, settings = parts[item.modality]
        flops = encoder.flops(settings, item.rows_in)
        if not (isinstance(flops, int | float) and 0 < flops < math.inf):
            raise ConfigError(
                f"encoder {settings.kind} gives no cost of {item.rows_in} rows", got=repr(flops), expected="FLOPs above zero",
                do="correct its method flops",
            )  # fmt: skip
        found.append(float(flops))
    return found


def longest_first(loads: Sequence[float], ranks: int) -> list[int]:
    """Owner of each item: the longest first, each to the rank with the least so far (Graham 1969); ties by number.

    Every rank computes the same plan, so that nothing is communicated.
    """
    load = [0.0] * ranks
    owners = [0] * len(loads)
    for index in sorted(range(len(loads)), key=lambda i: (-loads[i], i)):
        rank = min(range(ranks), key=lambda r: (load[r], r))
        owners[index] = rank
        load[rank] += loads[index]
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


def deal(items: Sequence[EncoderItem], config: AlignConfig, world: int) -> list[int]:
    """World rank that encodes each item: `longest_first` over the ranks that encode."""
    ranks = encoding_ranks(config, world)
    return [ranks[place] for place in longest_first(costs(items, config), len(ranks))]


def busiest(items: Sequence[EncoderItem], config: AlignConfig, owners: Sequence[int], world: int) -> float:
    """Work of the busiest encoding rank over their mean, for a plan of `deal`; 1 is ideal, and without any items."""
    ranks = encoding_ranks(config, world)
    places = {rank: place for place, rank in enumerate(ranks)}
    return imbalance(costs(items, config), [places[owner] for owner in owners], len(ranks)) if items else 1.0


def imbalance(loads: Sequence[float], owners: Sequence[int], ranks: int) -> float:
    """Load of the busiest rank over the mean load; 1 is ideal."""
    load = [0.0] * ranks
    for index, owner in enumerate(owners):
        load[owner] += loads[index]
    return max(load) * ranks / max(sum(load), 1e-30)
