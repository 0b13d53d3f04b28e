"""What a path is: a run, a stage, a checkpoint, a Hugging Face folder ...; every command asks here and refuses alike.

    locate(path).expect(MODEL).open()     # the newest valid checkpoint of a run, or that very checkpoint

`locate` looks at names and at small files only. A later layout is one more `Kind` and one more line in `_kind_of`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from megabiomed.checkpoint.catalog import latest_valid, list_checkpoints
from megabiomed.checkpoint.manifest import CONFIG, TRAINER
from megabiomed.checkpoint.marker import COMMITTED
from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.checkpoint.uses import ADVICE, ALIGNMENTS, WEIGHTS, Kind, Use
from megabiomed.config.yaml_text import read_yaml
from megabiomed.data.store import IDX
from megabiomed.ground.errors import CheckpointError, UserError
from megabiomed.ground.files import read_json
from megabiomed.tokenizer.files import find_in

_LOG = logging.getLogger(__name__)
CHECKPOINTS = "checkpoints"
ALIGNMENT_EXPORT = "alignment.json"
HF_CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class Located:
    """What a path is and what belongs to it.

    Attributes:
        path: as it was given.
        run: folder of the run or stage; None where there is none.
        stage: name of the stage, of a stage or its checkpoint.
    """

    path: Path
    kind: Kind
    run: Path | None = None
    stage: str | None = None

    def expect(self, use: Use) -> Located:
        """The same, if it can be used that way.

        Raises:
            CheckpointError: it cannot; says what it is and what would do.
        """
        if self.kind in use.kinds:
            return self
        raise CheckpointError(f"{self.path} is {self.kind}", expected=use.expected, do=self._advice() or use.instead)

    @property
    def is_hugging_face(self) -> bool:
        """Whether transformers can load the language model from the folder; it has no checkpoints then."""
        return self.kind in WEIGHTS

    @property
    def is_aligned(self) -> bool:
        """Whether it belongs to an alignment whose weights are spread over the checkpoints of its stages."""
        return self.kind in ALIGNMENTS

    def checkpoints(self) -> list[Path]:
        """Folders of checkpoints, complete or not, the newest first; of an alignment those of its last stage first.

        Raises:
            CheckpointError: there is none.
        """
        if self.kind in (Kind.CHECKPOINT, Kind.STAGE_CHECKPOINT):
            return [self.path]
        found = [item.path for folder in self._folders() for item in list_checkpoints(folder)]
        if not found:
            raise CheckpointError(f"{self.path} is {self.kind} without a checkpoint", do=_UNSAVED)
        return found

    def open(self, hashes: bool = False) -> Checkpoint:
        """The checkpoint at the path, or the newest valid one of the run there (of an alignment: of its last stage).

        Args:
            hashes: compare every byte with the manifest, not only sizes.

        Raises:
            CheckpointError: there is none that is valid.
        """
        verify: Literal["size", "hash"] = "hash" if hashes else "size"
        if self.kind in (Kind.CHECKPOINT, Kind.STAGE_CHECKPOINT):
            return Checkpoint.open(self.path, verify)
        # A stage that has begun but not saved falls back to the one before it.
        for folder in self._folders():
            found, skipped = latest_valid(folder, verify)
            for skip, reason in skipped:
                _LOG.warning("skipped %s: %s", skip, reason)
            if found is not None:
                return found
        raise CheckpointError(f"there is no valid checkpoint in {self.path}", got=str(self.kind), do=_UNSAVED)

    @property
    def config(self) -> Path | None:
        """The configuration: of a checkpoint or run its config.yaml, of a Hugging Face folder its config.json."""
        file = self.path / (HF_CONFIG if self.is_hugging_face else CONFIG)
        return file if file.is_file() else None

    @property
    def tokenizer(self) -> Path | None:
        """The tokenizer that belongs to the weights, None where none was stored.

        Raises:
            CheckpointError: a run without a valid checkpoint.
        """
        if self.is_hugging_face:
            return find_in(self.path)
        return self.open().tokenizer

    def _folders(self) -> list[Path]:
        """Folders that hold checkpoints: one, or of an alignment one for each stage, the last stage first."""
        if self.kind == Kind.ALIGNMENT:
            return [self.path / name / CHECKPOINTS for name in reversed(stages_of(self.path))]
        return [_checkpoints_in(self.path)]

    def _advice(self) -> str | None:
        if self.kind == Kind.ALIGNMENT:
            return f"name one of its stages ({', '.join(stages_of(self.path))})"
        if self.kind == Kind.RUNS:
            return f"name one of them ({', '.join(path.name for path in _runs_in(self.path)[:5])})"
        return ADVICE.get(self.kind)


_UNSAVED = (
    "wait for the first save, or name another run; `megabiomed checkpoint inspect` says what is wrong with damaged ones"
)


def locate(path: Path) -> Located:
    """What a path is. Never fails: something else, and nothing at all, are kinds too."""
    path = Path(path)
    kind = _kind_of(path)
    if kind == Kind.CHECKPOINT:
        stage = _stage_of(path)
        # Resolved, because the path may be a link or `.`, whose parents are others.
        return Located(path, Kind.STAGE_CHECKPOINT if stage else kind, path.resolve().parent.parent, stage)
    if kind != Kind.RUN:
        return Located(path, kind, path if kind == Kind.ALIGNMENT else None)
    run = path.parent if path.name == CHECKPOINTS else path
    # The name of a folder says nothing reliable; trainer.json of a checkpoint names the stage.
    saved = next((item.path for item in list_checkpoints(_checkpoints_in(path)) if item.committed), None)
    stage = _stage_of(saved) if saved else None
    return Located(path, Kind.STAGE if stage else kind, run, stage)


def stages_of(run: Path) -> list[str]:
    """Stages of an alignment run that have a folder of checkpoints, in the order in which they are trained."""
    held = sorted(folder.parent.name for folder in run.glob(f"*/{CHECKPOINTS}"))
    for file in _configurations(run):
        order = _stage_names(file)
        if order:
            return [name for name in order if name in held]
    return held


def _kind_of(path: Path) -> Kind:
    try:
        if not path.is_dir():
            return Kind.FILE if path.exists() else Kind.MISSING
        return _kind_of_folder(path, {item.name for item in path.iterdir()})
    except OSError:  # a name that no file system takes, or a folder that this user may not read
        return Kind.MISSING


def _kind_of_folder(path: Path, has: set[str]) -> Kind:
    if COMMITTED in has:
        return Kind.CHECKPOINT
    # An exported alignment is a Hugging Face folder too, so it is asked for first.
    if ALIGNMENT_EXPORT in has:
        return Kind.EXPORT
    if HF_CONFIG in has:
        return Kind.HUGGING_FACE
    if ADAPTER_CONFIG in has:
        return Kind.ADAPTER
    if IDX in has:
        return Kind.TOKEN_STORE
    if "records.arrow" in has:
        return Kind.ANSWER_STORE
    if {"blobs", "snapshots"} <= has:
        return Kind.HUB_CACHE
    if (path / "model").is_dir():
        return Kind.CHECKPOINT  # an interrupted save
    if CHECKPOINTS in has or list_checkpoints(path):
        return Kind.RUN
    names = next(filter(None, map(_stage_names, _configurations(path))), [])
    if names:
        # A stage that has not saved yet keeps the configuration of its run; it has no stages below it.
        return Kind.RUN if path.name in names and not stages_of(path) else Kind.ALIGNMENT
    # A run that has not saved yet, or whose checkpoints were moved away.
    if has & {"metrics.jsonl", "events.jsonl", "fence.json", "slurm"}:
        return Kind.RUN
    if (path / "train" / IDX).is_file():
        return Kind.CORPUS
    return Kind.RUNS if _runs_in(path) else Kind.FOLDER


def _checkpoints_in(path: Path) -> Path:
    return path / CHECKPOINTS if (path / CHECKPOINTS).is_dir() else path


def _runs_in(folder: Path) -> list[Path]:
    # The checkpoints of an alignment lie one folder deeper, in its stages.
    marks = (f"*/{CHECKPOINTS}", "*/*/" + CHECKPOINTS, "*/slurm")
    found = {folder / place.relative_to(folder).parts[0] for mark in marks for place in folder.glob(mark)}
    return sorted(found)


def _configurations(run: Path) -> Iterator[Path]:
    """Files that say what an alignment's stages are: the run's own, or one that a checkpoint of a stage keeps."""
    yield run / CONFIG
    yield from sorted(run.glob(f"logs/*/{CONFIG}"), reverse=True)
    for folder in sorted(run.glob(f"*/{CHECKPOINTS}")):
        saved = [item.path for item in list_checkpoints(folder) if item.committed and _stage_of(item.path)]
        yield from (path / CONFIG for path in saved[:1])


def _stage_names(file: Path) -> list[str]:
    """Names in `align.stages` of a configuration; empty where it cannot be read or is of another kind of run."""
    if not file.is_file():
        return []
    try:
        # Not validated: a configuration of an earlier release still names its stages.
        values: Any = read_yaml(file.read_text(), str(file))
        return [str(stage["name"]) for stage in values["align"]["stages"]]
    except (UserError, OSError, KeyError, TypeError, UnicodeDecodeError):
        return []


def _stage_of(checkpoint: Path) -> str | None:
    """The stage that wrote a checkpoint; one that is damaged is said to be so where it is opened."""
    try:
        values = read_json(checkpoint / TRAINER)
    except UserError:
        return None
    stage = values.get("stage") if isinstance(values, dict) else None
    return stage if isinstance(stage, str) else None
