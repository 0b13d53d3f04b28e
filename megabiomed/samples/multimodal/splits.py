"""Splits that keep relatives together."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

from megabiomed.encoders.modality import Modality
from megabiomed.samples.multimodal.records import MultimodalQuestion

Split = Literal["random", "cluster"]
NAMES = ("train", "validation", "test")


def split_records(
    records: Sequence[MultimodalQuestion], how: Split, seed: int, modalities: Sequence[Modality[Any, Any]],
    shares: tuple[float, float, float] = (0.8, 0.1, 0.1),
) -> dict[str, list[MultimodalQuestion]]:  # fmt: skip
    """Deal records to train, validation and test by a hash of what must stay together.

    random keeps the same item on one side; cluster keeps relatives on one side, as each modality knows them.
    """
    groups = cluster_keys(records, modalities) if how == "cluster" else [_entity(record) for record in records]
    found: dict[str, list[MultimodalQuestion]] = {name: [] for name in NAMES}
    for record, group in zip(records, groups):
        # A hash, not a draw: a record stays on its side when others are added.
        place = int.from_bytes(hashlib.sha256(f"{seed}/{group}".encode()).digest()[:8], "big") / 2**64
        name = NAMES[0] if place < shares[0] else NAMES[1] if place < shares[0] + shares[1] else NAMES[2]
        found[name].append(record)
    return found


def leakage(split: dict[str, list[MultimodalQuestion]], modalities: Sequence[Modality[Any, Any]]) -> dict[str, float]:
    """Share of held-out records whose exact item, or whose cluster, is in train."""
    everything = [record for name in NAMES for record in split[name]]
    keys = dict(zip(map(id, everything), cluster_keys(everything, modalities)))
    items, clusters = {_entity(r) for r in split["train"]}, {keys[id(r)] for r in split["train"]}
    held = [record for name in NAMES[1:] for record in split[name]]
    count = max(1, len(held))
    return {
        "same_item": sum(_entity(r) in items for r in held) / count,
        "same_cluster": sum(keys[id(r)] in clusters for r in held) / count,
    }


def _entity(record: MultimodalQuestion) -> str:
    return "|".join(text for texts in record.items.values() for text in texts) or record.question


def cluster_keys(records: Sequence[MultimodalQuestion], modalities: Sequence[Modality[Any, Any]]) -> list[str]:
    """Key of the cluster of each record: of its first item of the last modality that it has items of, or its question."""
    deciding = [_deciding(record, modalities) for record in records]
    clusters = {
        modality.name: modality.clusters({text for name, text in filter(None, deciding) if name == modality.name})
        for modality in modalities
    }
    return [clusters[item[0]][item[1]] if item else record.question for record, item in zip(records, deciding)]


def _deciding(record: MultimodalQuestion, modalities: Sequence[Modality[Any, Any]]) -> tuple[str, str] | None:
    return next(((m.name, record.of(m.name)[0]) for m in reversed(modalities) if record.of(m.name)), None)
