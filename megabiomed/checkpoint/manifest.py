"""manifest.json: which rank wrote which box of which tensor, and size and hash of every file."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from megabiomed.checkpoint.logical import Box, uncovered
from megabiomed.checkpoint.marker import COMMITTED
from megabiomed.ground.errors import CheckpointError, FileError
from megabiomed.ground.files import inside, read_json, sha256_file

FORMAT = "megabiomed-checkpoint"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
TRAINER = "trainer.json"
CONFIG = "config.yaml"
TOKENIZER = "tokenizer"
LARGEST = 2**63 - 1
MOST_RANKS = 10_000_000
"""Bounds of what a file may say: beyond them numbers do not fit where they are used."""


class _Record(BaseModel):
    # Unknown keys are refused: a file of a later format must not be half understood.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FileRecord(_Record):
    """Size in bytes and SHA-256 of one file."""

    bytes: int = Field(ge=0, le=LARGEST)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class StoredBox(_Record):
    """A box that one rank wrote: for each kind the tensor `box_key` of the file `shard_path`, of this element type."""

    offset: tuple[int, ...]
    shape: tuple[int, ...]
    rank: int = Field(ge=0)
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
        # Beyond 63 bits the sizes of NumPy and torch overflow.
        if prod(self.shape) > LARGEST:
            raise ValueError(f"no tensor has the shape {self.shape}")
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
    global_step: int = Field(ge=0, le=LARGEST)
    writer: str
    world_size: int = Field(ge=1, le=MOST_RANKS)
    architecture: dict[str, Any]
    tensors: dict[str, TensorRecord]
    files: dict[str, FileRecord]

    @model_validator(mode="after")
    def _files_are_listed(self) -> Manifest:
        # Only listed files are verified: a tensor in another one would be loaded unchecked.
        stored = {(kind, box.rank) for record in self.tensors.values() for box in record.boxes for kind in box.dtypes}
        for kind, rank in stored:
            if rank >= self.world_size:
                raise ValueError(f"a tensor was saved by rank {rank} of {self.world_size}")
            if shard_path(kind, rank) not in self.files:
                raise ValueError(f"tensors are in {shard_path(kind, rank)}, which is not listed")
        for name in (TRAINER, CONFIG):
            if name not in self.files:
                raise ValueError(f"{name} is not listed")
        return self

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
    # Always hashed, even with verify=size: all other checks rely on what the manifest says.
    if not path.is_file() or sha256_file(path) != wanted:
        raise CheckpointError(f"{path} is missing or was changed after the commit", expected=f"SHA-256 {wanted}")
    values = read_stored(path)
    # Before the model: a newer format should be called newer, not wrong in some key.
    _check_format(values, path)
    try:
        # As JSON and strictly: a string of digits is no number.
        return Manifest.model_validate_json(path.read_bytes(), strict=True)
    except ValidationError as error:
        raise not_of_format(path, error) from None


def not_of_format(path: Path, error: ValidationError) -> CheckpointError:
    """What pydantic complains of first, as one line that names the file and the key."""
    complaint = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in complaint["loc"])
    return CheckpointError(
        f"{path} does not follow the format" + (f": key {key[:200]!r}" if key else ""),
        got=repr(complaint["input"])[:200] if key else None,
        expected=complaint["msg"].removeprefix("Value error, "),
    )


def committed_hash(folder: Path) -> str:
    """The hash of the manifest that COMMITTED vouches for."""
    marker = read_stored(folder / COMMITTED)
    if not isinstance(marker, dict) or not isinstance(marker.get("manifest_sha256"), str):
        raise CheckpointError(f"{folder / COMMITTED} is damaged", got=repr(marker), expected="manifest_sha256")
    return str(marker["manifest_sha256"])


def _check_format(values: Any, path: Path) -> None:
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no megabiomed checkpoint", expected=f"format {FORMAT!r}")
    version = values.get("version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has a newer format", got=version, expected=f"up to {FORMAT_VERSION}", do="update megabiomed"
        )


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
    # No hole and the right number of elements: then none is stored twice.
    if sum(box.numel for box in boxes) != whole.numel:
        raise CheckpointError(f"parts of {kind} of {whole.name} were saved by two ranks", expected="one owner each")
