"""manifest.json: which rank wrote which box of which tensor, and size and hash of every file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from megabiomed.checkpoint.logical import Box, uncovered
from megabiomed.ground.errors import CheckpointError, FileError
from megabiomed.ground.files import inside, read_json, sha256_file

FORMAT = "megabiomed-checkpoint"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
COMMITTED = "COMMITTED"
TRAINER = "trainer.json"
CONFIG = "config.yaml"
TOKENIZER = "tokenizer"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileRecord(_Record):
    """Size in bytes and SHA-256 of one file."""

    bytes: int
    sha256: str


class StoredBox(_Record):
    """A box that one rank wrote: for each kind the tensor `box_key` of the file `shard_path`, of this element type."""

    offset: tuple[int, ...]
    shape: tuple[int, ...]
    rank: int
    dtypes: dict[str, str]

    def box(self, name: str, global_shape: tuple[int, ...]) -> Box:
        """The box of the logical tensor `name`."""
        return Box(name, global_shape, self.offset, self.shape)


def shard_path(kind: str, rank: int) -> str:
    """Where a rank writes a kind, relative to the checkpoint: parameters apart from the optimizer's moments."""
    return f"{'model' if kind == 'param' else 'optimizer'}/rank_{rank:05d}.safetensors"


def box_key(box: Box, kind: str) -> str:
    """Name of a box inside a safetensors file: `model.norm.weight|0|64|param` (tensor, offset, shape, kind)."""
    return "|".join([box.name, *(",".join(map(str, axis)) for axis in (box.offset, box.shape)), kind])


class TensorRecord(_Record):
    """Full shape of a logical tensor and the boxes that it is stored in."""

    shape: tuple[int, ...]
    boxes: list[StoredBox]

    @model_validator(mode="after")
    def _boxes_lie_inside(self) -> TensorRecord:
        for box in self.boxes:
            spans = zip(box.offset, box.shape, self.shape)
            alike = len(box.offset) == len(box.shape) == len(self.shape)
            if not alike or not all(low >= 0 and size > 0 and low + size <= whole for low, size, whole in spans):
                raise ValueError(f"box {box.offset} {box.shape} does not lie inside {self.shape}")
        return self


class Manifest(_Record):
    """The whole of manifest.json."""

    format: str = FORMAT
    version: int = FORMAT_VERSION
    megabiomed: str
    created: str
    global_step: int
    writer: str
    world_size: int
    architecture: dict[str, Any]
    tensors: dict[str, TensorRecord]
    files: dict[str, FileRecord]

    def kinds(self) -> list[str]:
        """Kinds of state that are stored, sorted."""
        return sorted({kind for record in self.tensors.values() for stored in record.boxes for kind in stored.dtypes})


def read_stored(path: Path) -> Any:
    """Read a JSON file of a checkpoint; a missing or damaged one makes the checkpoint damaged (`CheckpointError`)."""
    try:
        return read_json(path)
    except FileError as error:
        raise _of_checkpoint(error) from None


def file_in(folder: Path, name: str) -> Path:
    """The path of a file of a checkpoint; `CheckpointError` for a name that leads out of its folder."""
    try:
        return inside(folder, name)
    except FileError as error:
        raise _of_checkpoint(error) from None


def _of_checkpoint(error: FileError) -> CheckpointError:
    return CheckpointError(error.what, got=error.got, expected=error.expected, do=error.do)


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a committed checkpoint.

    Raises:
        CheckpointError: missing, not committed, manifest changed after the commit, or of a newer format.
    """
    if not folder.is_dir():
        raise CheckpointError(f"there is no checkpoint at {folder}", do="check the path")
    if not (folder / COMMITTED).is_file():
        raise CheckpointError(f"{folder} is not committed", do="it was interrupted while saving; use an older one")
    path = folder / MANIFEST
    wanted = committed_hash(folder)
    if not path.is_file() or sha256_file(path) != wanted:
        raise CheckpointError(f"{path} is missing or was changed after the commit", expected=f"SHA-256 {wanted}")
    return _parse(read_stored(path), path)


def committed_hash(folder: Path) -> str:
    """The hash of the manifest that COMMITTED vouches for."""
    marker = read_stored(folder / COMMITTED)
    if not isinstance(marker, dict) or not isinstance(marker.get("manifest_sha256"), str):
        raise CheckpointError(f"{folder / COMMITTED} is damaged", got=repr(marker), expected="manifest_sha256")
    return str(marker["manifest_sha256"])


def _parse(values: Any, path: Path) -> Manifest:
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no megabiomed checkpoint", expected=f"format {FORMAT!r}")
    version = values.get("version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has a newer format", got=version, expected=f"up to {FORMAT_VERSION}", do="update megabiomed"
        )
    try:
        return Manifest.model_validate(values)
    except ValidationError as error:
        raise CheckpointError(f"{path} does not follow the format", got=str(error)) from None


def check_tiling(tensors: dict[str, TensorRecord]) -> None:
    """Refuse boxes that leave a hole in a tensor or hold an element twice, for each kind.

    Raises:
        CheckpointError: naming the tensor, the kind and the first box that is wrong.
    """
    for name, record in tensors.items():
        whole = Box.whole(name, record.shape)
        checked: set[tuple[Box, ...]] = set()
        for kind in sorted({kind for stored in record.boxes for kind in stored.dtypes}):
            boxes = tuple(sorted(stored.box(name, record.shape) for stored in record.boxes if kind in stored.dtypes))
            # Parameter and moments are nearly always cut alike; ZeRO-3 makes the cut expensive to check three times.
            if boxes not in checked:
                _check_cover(whole, boxes, kind)
                checked.add(boxes)


def _check_cover(whole: Box, boxes: tuple[Box, ...], kind: str) -> None:
    holes = uncovered(whole, boxes)
    if holes:
        raise CheckpointError(f"no rank saved {kind} of {holes[0]}", expected="an owner for every element")
    if sum(box.numel for box in boxes) != whole.numel:
        raise CheckpointError(f"parts of {kind} of {whole.name} were saved by two ranks", expected="one owner each")
