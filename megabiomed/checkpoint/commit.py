"""Saving a checkpoint: all ranks write, one commits, and at every moment the newest committed one is whole.

step_00000120.tmp-<token>/   all ranks write their files, fsync
                             rank 0 adds trainer.json, config.yaml, tokenizer/, manifest.json, fsync
step_00000120/               rename
step_00000120/COMMITTED      written last: the SHA-256 of the manifest, which holds that of every other file
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist

from megabiomed import __version__
from megabiomed.checkpoint.catalog import needs_care, prune, step_name
from megabiomed.checkpoint.fence import Fence
from megabiomed.checkpoint.logical import Fragment
from megabiomed.checkpoint.manifest import (
    CONFIG,
    MANIFEST,
    TOKENIZER,
    TRAINER,
    FileRecord,
    Manifest,
    check_tiling,
)
from megabiomed.checkpoint.marker import COMMITTED
from megabiomed.checkpoint.space import check_space, stored_bytes
from megabiomed.checkpoint.state import TrainerState
from megabiomed.checkpoint.writer import RankFiles, save_shards, tensor_records
from megabiomed.ground.errors import CheckpointError, CorruptionError, FileError, SaveError
from megabiomed.ground.files import (
    discard_tree,
    fsync_directory,
    fsync_tree,
    json_text,
    opened_directory,
    remove_tree,
    sha256_file,
    write_atomic,
    write_atomic_at,
    write_json,
)
from megabiomed.ground.node import node_name
from megabiomed.ground.storage import refusal
from megabiomed.processes.messages import broadcast, gather
from megabiomed.tokenizer.files import companions, copy_into

T = TypeVar("T")


def _gather_alone(value: Any) -> list[Any] | None:
    return [value]


def _broadcast_alone(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Ranks:
    """The processes that save together; the default is one process without torch.distributed.

    Attributes:
        gather: collective that gives rank 0 the JSON values of all ranks, in rank order, and the others None.
        broadcast: collective that gives every rank the JSON value of rank 0.
    """

    rank: int = 0
    world_size: int = 1
    gather: Callable[[Any], list[Any] | None] = _gather_alone
    broadcast: Callable[[Any], Any] = _broadcast_alone

    @classmethod
    def of_group(cls, group: dist.ProcessGroup | None = None) -> Ranks:
        """The ranks of a torch process group (default: all). Background saves need a gloo group of their own."""
        rank, size = dist.get_rank(group), dist.get_world_size(group)

        return cls(rank, size, lambda value: gather(value, group), lambda value: broadcast(value, group=group))


@dataclass(frozen=True)
class RunState:
    """What is stored beside the tensors; only rank 0's is used.

    Attributes:
        trainer: progress of the run (trainer.json).
        architecture: the model, by the names of `ModelConfig` (into the manifest).
        config_text: the effective configuration as YAML (config.yaml).
        tokenizer: SentencePiece model to copy, or None.
        expected: full shape of every logical tensor of the model; a checkpoint without one of them is not committed.
    """

    trainer: TrainerState
    architecture: dict[str, Any]
    config_text: str
    tokenizer: Path | None = None
    expected: dict[str, tuple[int, ...]] | None = None


class CheckpointWriter:
    """Saves checkpoints into one `checkpoints` folder; all ranks construct it and call `save` together.

    Args:
        folder: on storage that all ranks share.
        fence: rank 0's right to commit; None commits unconditionally.
    """

    def __init__(self, folder: Path, ranks: Ranks | None = None, fence: Fence | None = None) -> None:
        self.folder = folder
        self.ranks = ranks or Ranks()
        self.fence = fence
        # Without a fence a random name is enough to keep the temporary folders of two writers apart.
        self.token = fence.token if fence else secrets.token_hex(4)
        self._committed: set[int] = set()

    def save(self, step: int, fragments: Iterable[Fragment], state: RunState) -> Path:
        """Write and commit the checkpoint of one step; a step that this writer already committed is left as it is.

        A folder of the same step from an earlier start is replaced: it is moved aside, still complete, until the new
        one is committed; one that fails its check stays there. Collective: a failure on any rank raises on all of them
        and leaves earlier checkpoints alone.

        Raises:
            SaveError: naming the rank that failed and why; also when the fence was claimed by a later start.
        CorruptionError: a copy of the state was damaged in memory; names the nodes.
        """
        final = self.folder / step_name(step)
        # The end of the run, or a stop signal, may follow right after a regular save of the same step.
        if step in self._committed:
            return final
        # Rank 0's token: all ranks must write into the folder of the same name.
        temporary = self.folder / f"{step_name(step)}.tmp-{self.ranks.broadcast(self.token)}"
        owned = [fragment for fragment in fragments if fragment.owner]
        sizes = self.ranks.gather(stored_bytes(owned)) or []
        try:
            # Each phase ends with a collective: nobody writes before the folder exists or commits before all wrote.
            self._together(step, "prepared", self._on_first(lambda: self._prepare(temporary, sizes)))
            written = self._together(step, "written", lambda: save_shards(temporary, self.ranks.rank, owned).to_json())
            self._together(step, "committed", self._on_first(lambda: self._commit(step, temporary, written, state)))
        # KeyboardInterrupt and SystemExit too: nobody else knows of the half-written folder.
        except BaseException:
            if self.ranks.rank == 0:
                discard_tree(temporary)
            raise
        self._committed.add(step)
        return final

    def prune(self, keep_last: int, keep_every: int = 0) -> list[Path]:
        """Remove what retention does not ask for and what dead writers left (see `catalog.prune`); rank 0 only."""
        return prune(self.folder, keep_last, keep_every, self.token) if self.ranks.rank == 0 else []

    def _on_first(self, work: Callable[[], None]) -> Callable[[], None]:
        return work if self.ranks.rank == 0 else lambda: None

    def _together(self, step: int, what: str, work: Callable[[], T]) -> list[T]:
        """Do `work` on every rank: rank 0 gets all results, or every rank raises the first failure."""
        failure: Exception | None = None
        passing, nodes = False, []
        # No rank may leave by its own exception: the others would wait in the gather for ever.
        try:
            mine: Any = work()
        except Exception as error:
            more = refusal(error, self.folder).removeprefix(error.strerror or "") if isinstance(error, OSError) else ""
            failure, mine = error, f"{type(error).__name__}: {error}{more}"
            # A file that cannot be read is storage that is away (of the fence, say); a lost fence is another error.
            passing = isinstance(error, OSError | FileError)
            nodes = [node_name()] if isinstance(error, CorruptionError) else []
        found = self.ranks.gather((failure is None, mine, passing, nodes)) or []
        failed = [(rank, *told) for rank, (fine, *told) in enumerate(found) if not fine]
        bad = sorted({node for *_, nodes in failed for node in nodes})
        first = self.ranks.broadcast([*failed[0][:2], all(told[2] for told in failed), bad] if failed else None)
        if first is not None and first[3]:
            raise _damaged(step, first[1], first[3]) from failure
        if first is not None:
            refused = SaveError(
                f"checkpoint of step {step} was not {what}: rank {first[0]} failed",
                got=first[1],
                do=f"earlier checkpoints in {self.folder} are as they were; remove the cause and start the run again",
            )
            refused.passing = first[2]
            raise refused from failure
        return [value for _, value, *_ in found]

    def _prepare(self, temporary: Path, sizes: list[int]) -> None:
        # Before any byte is written: a writer that was replaced must not fill its successor's disk.
        self._check_fence()
        remove_tree(temporary)
        check_space(self.folder, sum(sizes), self.ranks.world_size)
        for part in ("model", "optimizer"):
            (temporary / part).mkdir(parents=True)

    def _commit(self, step: int, temporary: Path, written: list[Any], state: RunState) -> None:
        shards = [RankFiles.from_json(values) for values in written]
        tensors = tensor_records(shards)
        # A hole must be found now: at the next start the state that would fill it is gone.
        check_tiling(tensors)
        _check_complete({name: record.shape for name, record in tensors.items()}, state.expected)
        files = {path: record for rank in shards for path, record in rank.files.items()}
        files.update(_write_state(temporary, step, state))
        # A node that wrote to a disk of its own instead of the shared folder sees no error; rank 0 notices it here.
        for name, record in files.items():
            if not (temporary / name).is_file() or (temporary / name).stat().st_size != record.bytes:
                raise CheckpointError(
                    f"rank 0 does not see {temporary / name} as it was written", do="use a folder that all ranks share"
                )
        manifest = Manifest(
            megabiomed=__version__,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            global_step=step,
            writer=self.token,
            world_size=self.ranks.world_size,
            architecture=state.architecture,
            tensors=tensors,
            files=files,
        )
        write_atomic(temporary / MANIFEST, json.dumps(manifest.model_dump(mode="json"), allow_nan=False))
        # Everything is durable before the rename, which a file system may write before the data.
        fsync_tree(temporary)
        self._publish(step, temporary)

    def _publish(self, step: int, temporary: Path) -> None:
        """Put the complete folder in its place and mark it; any older folder of the step stays valid until then.

        The fence is asked before the rename and once more before the marker. The marker goes into the folder that this
        writer made, whatever has its name by then: a writer that slept can neither mark nor spoil a later start's folder.
        """
        final = self.folder / step_name(step)
        aside = self.folder / f"{final.name}.old-{self.token}"
        marker = json_text({"manifest_sha256": sha256_file(temporary / MANIFEST), "global_step": step})
        # Committed once and damaged now: only a person may remove it (`needs_care`).
        spared = needs_care(final)
        with opened_directory(temporary) as directory:
            self._check_fence()
            if spared or (final / COMMITTED).is_file():
                remove_tree(aside)
                final.rename(aside)
            else:
                remove_tree(final)
            temporary.rename(final)
            # The rename must be durable before the marker vouches for the folder.
            fsync_directory(self.folder)
            self._check_fence()
            write_atomic_at(directory, COMMITTED, marker)
        if not spared:
            remove_tree(aside)

    def _check_fence(self) -> None:
        if self.fence:
            self.fence.check()


def _write_state(folder: Path, step: int, state: RunState) -> dict[str, FileRecord]:
    # One number for both files: whoever opens the checkpoint refuses two that differ.
    write_json(folder / TRAINER, state.trainer.model_copy(update={"global_step": step}).to_json())
    write_atomic(folder / CONFIG, state.config_text)
    names = [TRAINER, CONFIG]
    if state.tokenizer is not None:
        (folder / TOKENIZER).mkdir()
        copy = copy_into(folder / TOKENIZER, state.tokenizer)
        names += [f"{TOKENIZER}/{file.name}" for file in (copy, *companions(copy))]
    return {name: FileRecord(bytes=(folder / name).stat().st_size, sha256=sha256_file(folder / name)) for name in names}


def _damaged(step: int, said: str, nodes: list[str]) -> CorruptionError:
    error = CorruptionError(
        f"checkpoint of step {step} was not written: its copy in memory was damaged on {', '.join(nodes)}",
        got=said, do="earlier checkpoints are as they were; exclude the node and start the run again",
    )  # fmt: skip
    error.nodes = tuple(nodes)
    return error


def _check_complete(saved: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]] | None) -> None:
    if expected is None:
        return
    missing = sorted(set(expected) - set(saved))
    if missing:
        raise CheckpointError("no rank saved some tensors of the model", got=f"{missing[:3]} of {len(missing)} missing")
    wrong = [name for name, shape in expected.items() if saved[name] != shape]
    if wrong:
        raise CheckpointError(
            f"{wrong[0]} has another shape than the model", got=saved[wrong[0]], expected=expected[wrong[0]]
        )
