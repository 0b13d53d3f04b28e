"""Splits that keep relatives together: Murcko scaffolds for molecules, k-mer clusters for proteins."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

from megabiomed.samples.multimodal.records import QaRecord

Split = Literal["random", "cluster"]
NAMES = ("train", "validation", "test")
_K = 5
_SHARED = 0.3


def split_records(
    records: Sequence[QaRecord], how: Split, seed: int, shares: tuple[float, float, float] = (0.8, 0.1, 0.1)
) -> dict[str, list[QaRecord]]:
    """Deal records to train, validation and test by a hash of what must stay together.

    random keeps the same molecule or protein on one side; cluster keeps scaffolds and similar sequences on one side.
    """
    groups = cluster_keys(records) if how == "cluster" else [_entity(record) for record in records]
    found: dict[str, list[QaRecord]] = {name: [] for name in NAMES}
    for record, group in zip(records, groups):
        place = int.from_bytes(hashlib.sha256(f"{seed}/{group}".encode()).digest()[:8], "big") / 2**64
        name = NAMES[0] if place < shares[0] else NAMES[1] if place < shares[0] + shares[1] else NAMES[2]
        found[name].append(record)
    return found


def leakage(split: dict[str, list[QaRecord]]) -> dict[str, float]:
    """Share of held-out records whose exact item, or whose scaffold or sequence cluster, is in train."""
    everything = [record for name in NAMES for record in split[name]]
    keys = dict(zip(map(id, everything), cluster_keys(everything)))
    items, clusters = {_entity(r) for r in split["train"]}, {keys[id(r)] for r in split["train"]}
    held = [record for name in NAMES[1:] for record in split[name]]
    count = max(1, len(held))
    return {
        "same_item": sum(_entity(r) in items for r in held) / count,
        "same_cluster": sum(keys[id(r)] in clusters for r in held) / count,
    }


def _entity(record: QaRecord) -> str:
    return "|".join([*record.molecules, *record.proteins]) or record.question


def cluster_keys(records: Sequence[QaRecord]) -> list[str]:
    """Key of the cluster of each record."""
    clusters = sequence_clusters(
        sorted({p for record in records for p in record.proteins[:1]}, key=lambda s: (-len(s), s))
    )
    return [
        f"protein {clusters[record.proteins[0]]}" if record.proteins
        else f"scaffold {scaffold(record.molecules[0])}" if record.molecules else record.question
        for record in records
    ]  # fmt: skip


def scaffold(smiles: str) -> str:
    """Bemis-Murcko scaffold; molecules without rings are their own."""
    from rdkit import rdBase
    from rdkit.Chem.Scaffolds import MurckoScaffold

    try:
        with rdBase.BlockLogs():
            return str(MurckoScaffold.MurckoScaffoldSmiles(smiles=smiles)) or smiles
    except (ValueError, RuntimeError):
        return smiles


def sequence_clusters(sequences: Sequence[str]) -> dict[str, int]:
    """Greedy clusters, longest first (as CD-HIT, Li & Godzik 2006): a sequence joins the first representative that shares
    30 % of its 5-mers. A fast stand-in for alignment identity, meant for splits, not for biology."""
    index: dict[str, list[int]] = defaultdict(list)
    found: dict[str, int] = {}
    for number, sequence in enumerate(sequences):
        kmers = {sequence[i : i + _K] for i in range(max(1, len(sequence) - _K + 1))}
        hits: dict[int, int] = defaultdict(int)
        for kmer in kmers:
            for cluster in index[kmer]:
                hits[cluster] += 1
        near = [c for c, count in hits.items() if count >= _SHARED * len(kmers)]
        found[sequence] = min(near, default=number)
        if not near:
            for kmer in kmers:
                index[kmer].append(number)
    return found
