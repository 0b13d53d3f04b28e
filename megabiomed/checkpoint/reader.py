"""A committed checkpoint as a source of logical tensors: any topology reads what any topology wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from megabiomed.checkpoint.logical import Box, Fragment, TensorSource, fill, uncovered
from megabiomed.checkpoint.manifest import (
    CONFIG,
    TOKENIZER,
    TRAINER,
    Manifest,
    StoredBox,
    box_key,
    file_in,
    read_manifest,
    shard_path,
)
from megabiomed.checkpoint.state import Reference, TrainerState, read_state
from megabiomed.checkpoint.tensorfile import TensorFiles
from megabiomed.ground.errors import CheckpointError
from megabiomed.ground.files import sha256_file
from megabiomed.tokenizer.files import name_among

# hashlib releases the interpreter lock, so threads hash in parallel.
_HASH_THREADS = 4


class Checkpoint:
    """An opened checkpoint; implements `TensorSource`.

    Attributes:
        path: its folder.
        manifest: what is stored where.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest
        self._files = TensorFiles()
        self._trainer: TrainerState | None = None
        self._indexes: dict[tuple[str, str], _BoxIndex] = {}

    @classmethod
    def open(cls, path: str | Path, verify: Literal["size", "hash"] = "size") -> Checkpoint:
        """Open a checkpoint after checking it.

        Args:
            verify: `size` checks marker, manifest, and name and size of each file; `hash` reads all of them as well.

        Raises:
            CheckpointError: missing, not committed, changed since the commit, put together of two, or of a newer format.
        """
        path = Path(path)
        checkpoint = cls(path, read_manifest(path))
        problems = checkpoint.verify(hashes=verify == "hash")
        if problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            raise CheckpointError(f"{path} is damaged: {problems[0]}{more}", do="use an older checkpoint or a copy")
        checkpoint._check_step()
        return checkpoint

    def _check_step(self) -> None:
        """Each of its files is whole, but they may be of two checkpoints."""
        trainer = self.trainer
        # A key that a file lacks has its default, which must not pass for another step.
        if "global_step" in trainer.model_fields_set and trainer.global_step != self.step:
            raise CheckpointError(
                f"{self.path / TRAINER} is of another step than the weights beside it",
                got=f"step {trainer.global_step}", expected=f"step {self.step}", do="use an older checkpoint or a copy",
            )  # fmt: skip

    def verify(self, hashes: bool = True, progress: Callable[[int], None] | None = None) -> list[str]:
        """Compare every file with the manifest; returns one sentence for each that differs, none when all is well.

        Args:
            hashes: read every byte; False compares names and sizes only.
            progress: called with the bytes of each file that is done.
        """
        problems = []
        with ThreadPoolExecutor(_HASH_THREADS) as pool:
            found = pool.map(lambda name: self._problem(name, hashes), self.manifest.files)
            for problem, record in zip(found, self.manifest.files.values()):
                problems += [problem] if problem else []
                if progress:
                    progress(record.bytes)
        return problems

    def _problem(self, name: str, hashes: bool) -> str | None:
        record, path = self.manifest.files[name], file_in(self.path, name)
        try:
            if not path.is_file():
                return f"{name} is missing"
            size = path.stat().st_size
            if size != record.bytes:
                return f"{name} has {size} bytes instead of {record.bytes}"
            if hashes and sha256_file(path) != record.sha256:
                return f"the content of {name} has changed"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
        return None

    @property
    def bytes_read(self) -> int:
        """Bytes of tensors that were read through this object."""
        return self._files.bytes_read

    @property
    def step(self) -> int:
        """Optimizer steps that were done."""
        return self.manifest.global_step

    @property
    def architecture(self) -> dict[str, Any]:
        """Architecture of the model, by the names of `ModelConfig`."""
        return self.manifest.architecture

    @property
    def trainer(self) -> TrainerState:
        """Progress of the run, and what it was trained with; `CheckpointError` as `read_state`."""
        if self._trainer is None:
            self._trainer = read_state(file_in(self.path, TRAINER))
        return self._trainer

    @property
    def language_model(self) -> Reference:
        """The frozen language model that the checkpoint was trained with.

        Raises:
            CheckpointError: it names none.
        """
        found = self.trainer.language_model
        if found is None:
            raise CheckpointError(
                f"{self.path / TRAINER} names no frozen language model", expected="the key frozen.language_model",
                do="use a checkpoint of adapters or of an alignment",
            )  # fmt: skip
        return found

    @property
    def config_text(self) -> str:
        """The effective configuration of the run, as YAML; `CheckpointError` where it is no text."""
        file = file_in(self.path, CONFIG)
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{file} cannot be read", got=error, expected="UTF-8 text") from None

    @property
    def tokenizer(self) -> Path | None:
        """The file of the tokenizer that the run used, or None when none was stored."""
        name = name_among(name for name in self.manifest.files if name.startswith(f"{TOKENIZER}/"))
        return file_in(self.path, name) if name else None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Full shape of each logical tensor."""
        return {name: record.shape for name, record in self.manifest.tensors.items()}

    def read(self, box: Box, kind: str = "param") -> torch.Tensor:
        """Values of one box as fp32; raises as `read_into`."""
        values = torch.empty(box.shape, dtype=torch.float32)
        self.read_into(box, values, kind)
        return values

    def read_into(self, box: Box, out: torch.Tensor, kind: str = "param") -> None:
        """Fill `out` from every stored box that `box` meets; reads nothing else and holds at most 16 MiB besides.

        Raises:
            CheckpointError: the tensor is not stored, has another shape, or a part of the box is stored nowhere.
        """
        index = self._index(box, kind)
        held = []
        for stored in index.meeting(box):
            outer = stored.box(box.name, box.global_shape)
            part = outer.intersect(box)
            assert part is not None
            path = file_in(self.path, shard_path(kind, stored.rank))
            self._files.read_into(path, box_key(outer, kind), part.slices_in(outer), out[part.slices_in(box)])
            held.append(part)
        # On every read: `out` may be fresh memory, and a hole would leave arbitrary values in the weights.
        holes = uncovered(box, held)
        if holes:
            raise CheckpointError(f"{self.path} does not hold {kind} of {holes[0]}", do="the checkpoint is incomplete")

    def _index(self, box: Box, kind: str) -> _BoxIndex:
        key = box.name, kind
        if key not in self._indexes:
            record = self.manifest.tensors.get(box.name)
            stored = [part for part in record.boxes if kind in part.dtypes] if record else []
            if record is None or not stored:
                raise CheckpointError(
                    f"{self.path} holds no {kind} of {box.name}", do="check that the model is the same"
                )
            self._indexes[key] = _BoxIndex(record.shape, stored)
        if self._indexes[key].shape != box.global_shape:
            raise CheckpointError(
                f"{box.name} has another shape in {self.path}",
                got=self._indexes[key].shape,
                expected=box.global_shape,
                do="use the model that the checkpoint was made with",
            )
        return self._indexes[key]


class _BoxIndex:
    """Finds the stored boxes that a box meets without looking at each in Python: ZeRO-3 stores thousands."""

    def __init__(self, shape: tuple[int, ...], stored: Sequence[StoredBox]) -> None:
        self.shape, self._stored = shape, stored
        self._low = np.array([part.offset for part in stored], dtype=np.int64).reshape(len(stored), len(shape))
        self._high = self._low + np.array([part.shape for part in stored], dtype=np.int64).reshape(self._low.shape)

    def meeting(self, box: Box) -> list[StoredBox]:
        low = np.array(box.offset, dtype=np.int64)
        high = low + np.array(box.shape, dtype=np.int64)
        # Two boxes meet if their ranges overlap in every dimension.
        hits = np.all((self._low < high) & (self._high > low), axis=1)
        return [self._stored[int(i)] for i in np.flatnonzero(hits)]


def load_fragments(source: TensorSource, fragments: Iterable[Fragment], kinds: Sequence[str] | None = None) -> None:
    """Copy values from a source into the engine's own storage, through the views.

    A checkpoint fills the storage directly; of other sources one box is in memory at a time.

    Args:
        kinds: what to load; a fragment without a view of that kind is passed over. None loads all that a fragment views.
    """
    with torch.no_grad():
        # Files are written in this order, so each is read from front to back.
        for fragment in sorted(fragments, key=lambda fragment: fragment.box):
            for kind in fragment.views if kinds is None else kinds:
                if kind in fragment.views:
                    fill(source, fragment.box, fragment.views[kind], kind)
