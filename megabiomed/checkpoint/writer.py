"""Each rank writes the boxes that it owns into its own files; nothing is gathered, nothing is held twice."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from megabiomed.checkpoint.logical import Box, Fragment
from megabiomed.checkpoint.manifest import FileRecord, StoredBox, TensorRecord, box_key, shard_path
from megabiomed.checkpoint.tensorfile import DTYPES, LazyTensor, write_tensors
from megabiomed.ground.errors import CheckpointError


@dataclass(frozen=True)
class RankFiles:
    """What one rank wrote: its files, by path relative to the checkpoint, and the boxes in them."""

    files: dict[str, FileRecord]
    boxes: list[tuple[Box, StoredBox]]

    def to_json(self) -> Any:
        """For another rank."""
        return TypeAdapter(RankFiles).dump_python(self, mode="json")

    @classmethod
    def from_json(cls, values: Any) -> RankFiles:
        """What `to_json` of any rank gave."""
        return TypeAdapter(RankFiles).validate_python(values)


def save_shards(folder: Path, rank: int, fragments: Iterable[Fragment]) -> RankFiles:
    """Write this rank's owned boxes to `model/rank_<rank>.safetensors` and `optimizer/rank_<rank>.safetensors`.

    Values are written in the element type of the view (fp32 for masters and moments), one box in memory at a time;
    the files are durable on return. A rank that owns nothing writes no file.

    Args:
        folder: the temporary folder of the checkpoint, on storage that all ranks share.

    Raises:
        CorruptionError: what was written is not the state that was copied (`Fragment.sums`).
    """
    # A fixed order: the same state gives the same bytes, and readers go through a file from front to back.
    owned = sorted((fragment for fragment in fragments if fragment.owner), key=lambda fragment: fragment.box)
    tensors: dict[str, list[LazyTensor]] = {}
    boxes = []
    for fragment in owned:
        box = fragment.box
        for kind, view in fragment.views.items():
            _check_view(box, kind, view)
            # `view.detach` is called when its turn comes, so no second copy of the state exists.
            tensor = LazyTensor(box_key(box, kind), view.dtype, box.shape, view.detach, fragment.sums.get(kind))
            tensors.setdefault(shard_path(kind, rank), []).append(tensor)
        dtypes = {kind: DTYPES[view.dtype] for kind, view in fragment.views.items()}
        boxes.append((box, StoredBox(offset=box.offset, shape=box.shape, rank=rank, dtypes=dtypes)))
    files = {}
    for path, part in tensors.items():
        (folder / path).parent.mkdir(exist_ok=True)
        written = write_tensors(folder / path, part, {"format": "pt", "rank": str(rank)})
        files[path] = FileRecord(bytes=written.nbytes, sha256=written.sha256)
    return RankFiles(files, boxes)


def _check_view(box: Box, kind: str, view: torch.Tensor) -> None:
    if view.dtype not in DTYPES or view.shape != box.shape:
        raise CheckpointError(
            f"{kind} of {box} cannot be saved",
            got=f"{view.dtype} {tuple(view.shape)}",
            expected=f"shape {box.shape} of {', '.join(map(str, DTYPES))}",
        )


def tensor_records(ranks: Iterable[RankFiles]) -> dict[str, TensorRecord]:
    """Group the boxes of all ranks by logical tensor, in the order of their names.

    Raises:
        CheckpointError: two ranks disagree about the full shape of a tensor.
    """
    found: dict[str, TensorRecord] = {}
    for shards in ranks:
        for box, stored in shards.boxes:
            record = found.setdefault(box.name, TensorRecord(shape=box.global_shape, boxes=[]))
            if record.shape != box.global_shape:
                raise CheckpointError(
                    f"two ranks disagree about the shape of {box.name}", got=box.global_shape, expected=record.shape
                )
            record.boxes.append(stored)
    return dict(sorted(found.items()))
