"""Where a run is in its data, as one global number and a running hash, and what a changed configuration would do to it."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TRIPLE = struct.Struct("<qqq")
_SKIPPED = b"skipped"
NO_MARKS: Mapping[int, bytes] = {}
EMPTY_HASH = hashlib.blake2b(b"megabiomed sample ids", digest_size=16).hexdigest()


@dataclass(frozen=True)
class DataProgress:
    """Data position of a run, independent of batch size and topology.

    Attributes:
        next_sample: global number of the first sample not consumed yet.
        ids_hash: chain hash of all consumed sample ids in order, with a mark at those that were skipped.
        identity: everything that decides the order (seed, seq_length, per-source fingerprint, share and windows ...).
        skipped: (first, number) of the global samples that were passed over and are in no update, in order.
        quarantined: papers that are masked out of the loss, as `quarantine.jsonl` names them.
    """

    next_sample: int = 0
    ids_hash: str = EMPTY_HASH
    identity: dict[str, Any] = field(default_factory=dict)
    skipped: list[tuple[int, int]] = field(default_factory=list)
    quarantined: list[str] = field(default_factory=list)

    def advance(self, ids: NDArray[np.int64], marks: Mapping[int, bytes] = NO_MARKS) -> DataProgress:
        """Progress after consuming samples with these ids, [count, 3].

        Args:
            marks: what the hash takes in besides an id, by row: which documents were masked out of the loss.

        The hash is chained sample by sample, so that cutting the same samples into other batches gives the same hash.
        """
        # The chain says that all samples so far were the same, in the same order, in 16 bytes: two runs that were stopped and
        # cut into batches differently can be compared by it.
        return replace(self, next_sample=self.next_sample + len(ids), ids_hash=self._chained(ids, marks))

    def skip(self, ids: NDArray[np.int64]) -> DataProgress:
        """Progress after passing over samples with these ids, [count, 3]: behind them, and the hash tells so."""
        first, number = self.next_sample, len(ids)
        before = self.skipped
        if before and sum(before[-1]) == first:  # go on with the last range
            (first, held), before = before[-1], before[:-1]
            number += held
        hashed = self._chained(ids, dict.fromkeys(range(len(ids)), _SKIPPED))
        return replace(
            self, next_sample=self.next_sample + len(ids), ids_hash=hashed, skipped=[*before, (first, number)]
        )

    def _chained(self, ids: NDArray[np.int64], marks: Mapping[int, bytes]) -> str:
        digest = bytes.fromhex(self.ids_hash)
        for number, row in enumerate(ids.tolist()):
            digest = hashlib.blake2b(digest + marks.get(number, b"") + _TRIPLE.pack(*row), digest_size=16).digest()
        return digest.hex()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DataProgress:
        """Inverse of `to_dict`."""
        skipped = [(int(first), int(number)) for first, number in values.get("skipped", [])]
        quarantined = [str(paper) for paper in values.get("quarantined", [])]
        return cls(int(values["next_sample"]), str(values["ids_hash"]), dict(values["identity"]), skipped, quarantined)


@dataclass(frozen=True)
class ResumeCheck:
    """What a resume would read.

    Attributes:
        identical: True when the remaining samples are exactly those of the uninterrupted run.
        lines: the sentence for the operator, then one line per changed key.
    """

    identical: bool
    lines: list[str]


def verdict(saved: DataProgress, now: dict[str, Any], step: int | None = None) -> ResumeCheck:
    """Compare the order a checkpoint was reading with the order of this configuration.

    Args:
        step: optimizer steps done so far, for the message.
    """
    # Flat, so that a change is named by its key: `sources.1.windows: 120 -> 118`.
    before, after = _flatten(saved.identity), _flatten(now)
    keys = sorted(before.keys() | after.keys())
    pairs = [(key, before.get(key, "absent"), after.get(key, "absent")) for key in keys]
    changes = [f"{key}: {was} -> {would_be}" for key, was, would_be in pairs if was != would_be]
    if not changes:
        return ResumeCheck(True, [f"data order: identical from sample {saved.next_sample} on"])
    where = f"sample {saved.next_sample}" + (f" (step {step + 1})" if step is not None else "")
    return ResumeCheck(False, [f"data order: diverges at {where} because", *changes])


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)  # type: ignore[assignment]
    else:
        return {prefix: value}
    leaves: dict[str, Any] = {}
    for key, inner in items:
        leaves.update(_flatten(inner, f"{prefix}.{key}" if prefix else str(key)))
    return leaves
