"""What a run resumes from, on top of the checkpoint package."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist

from megabiomed.checkpoint.catalog import latest_valid, list_checkpoints
from megabiomed.checkpoint.fence import Fence, holder, lost
from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.config import RunConfig
from megabiomed.data.progress import DataProgress, verdict
from megabiomed.engine.build import TrainEngine
from megabiomed.ground.errors import CheckpointError
from megabiomed.processes import messages, platform
from megabiomed.processes.ranks import VERDICT
from megabiomed.runs.history import check_fresh
from megabiomed.tokenizer.files import fingerprint, open_tokenizer

# Linux alone has it; elsewhere the figure is 0.
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class ResumePoint:
    """What a start found: a checkpoint (or none) and the newer folders it passed over, with reasons.

    Attributes:
        seen: names of the run's committed checkpoints when the choice was made.
    """

    checkpoint: Checkpoint | None
    skipped: list[tuple[Path, str]]
    seen: list[str] = field(default_factory=list)


def find_resume_point(config: RunConfig) -> ResumePoint:
    """Rank 0 chooses for all ranks, because a shared file system may show them different states. Collective."""

    def chosen() -> list[Any]:
        # Listed before the choice: what is committed in between is then a change.
        seen = committed_names(config)
        point = choose(config)
        path = point.checkpoint and str(point.checkpoint.path)
        return [path, [[str(folder), reason] for folder, reason in point.skipped], seen]

    path, skipped, seen = messages.from_first(chosen)
    passed_over = [(Path(folder), reason) for folder, reason in skipped]
    # Rank 0 verified as configured; hashing on every rank would read the whole checkpoint once for each.
    return ResumePoint(Checkpoint.open(path) if path else None, passed_over, seen)


def choose(config: RunConfig) -> ResumePoint:
    """Follow `checkpoint.resume`: the newest valid checkpoint of the run, none, or the one that is named.

    A named checkpoint of another run is where this run starts; once it has checkpoints of its own, a restart goes on from
    those, or a requeued job would lose its progress every time.

    Raises:
        CheckpointError: the run was trained before, and what it saved cannot be opened or is not to be used.
    """
    choice = config.checkpoint.resume
    verify = config.checkpoint.verify
    folder = config.folder / "checkpoints"
    if choice not in ("auto", "never"):
        named = Checkpoint.open(choice, verify)
        own, skipped = latest_valid(folder, verify)
        # One of this run's own checkpoints is meant itself; another run's is only where this one begins.
        return ResumePoint(own, skipped) if own and is_foreign(named, config) else ResumePoint(named, [])
    found, skipped = latest_valid(folder, verify)
    if choice == "never" and found is not None:
        raise CheckpointError(
            f"run {config.name} has checkpoints and checkpoint.resume is never",
            got=str(found.path),
            do="choose another name, remove the run folder, or set checkpoint.resume=auto",
        )
    if found is None:
        check_fresh(config.folder, skipped)
    return ResumePoint(found, skipped)


def is_foreign(checkpoint: Checkpoint, config: RunConfig) -> bool:
    """Whether a checkpoint is of another run."""
    return checkpoint.path.resolve().parent != (config.folder / "checkpoints").resolve()


def resumed_progress(
    checkpoint: Checkpoint, identity: dict[str, Any], config: RunConfig, tokenizer: Path
) -> tuple[DataProgress, list[str]]:
    """Data position of a checkpoint and the verdict on the data order; a changed order is refused unless allowed.

    At `train.first_step` data begin anew, and may be others that the same tokenizer made.

    Args:
        tokenizer: that of the run.
    """
    trainer, first = checkpoint.trainer, config.train.first_step
    # Only at the very beginning: a restart goes on from a checkpoint of its own, and in its own data.
    if first and is_foreign(checkpoint, config):
        _check_first_step(checkpoint, first, tokenizer)
        return DataProgress(identity=identity), [f"data order: begins anew after step {first}"]
    progress = trainer.data
    found = verdict(progress, identity, checkpoint.step)
    if not found.identical and not config.checkpoint.allow_data_change:
        raise CheckpointError(
            "the data order differs from the checkpoint's: samples would be repeated or skipped",
            got="; ".join(found.lines[1:]),
            do="restore these settings, or set checkpoint.allow_data_change=true to go on all the same",
        )
    before, now = trainer.global_batch_size, config.data.global_batch_size
    if before not in (None, now):
        found.lines.append(
            f"global_batch_size: {before} -> {now}: no sample is repeated or skipped, steps hold other samples than before"
        )
    # Position and hash chain go on; the identity is this start's, which may differ on purpose.
    return replace(progress, identity=identity), found.lines


def _check_first_step(checkpoint: Checkpoint, first: int, tokenizer: Path) -> None:
    if checkpoint.step != first:
        raise CheckpointError(
            f"train.first_step is not the step of {checkpoint.path}", got=f"step {checkpoint.step}",
            expected=f"step {first}", do="set train.first_step to the step of the checkpoint in checkpoint.resume",
        )  # fmt: skip
    if checkpoint.tokenizer is not None:
        advice = "build the data of this run with the tokenizer of the earlier one"
        open_tokenizer(checkpoint.tokenizer).check_same("the data of the run", fingerprint(tokenizer), advice)


def no_earlier_run(config: RunConfig) -> CheckpointError:
    """The error of a run that is to begin at a later step, and has no checkpoint to begin from."""
    return CheckpointError(
        f"{config.name} begins after step {config.train.first_step} of an earlier run, which is not named",
        got=f"checkpoint.resume {config.checkpoint.resume}", expected="the path of a checkpoint",
        do="set checkpoint.resume to the checkpoint of that step, or remove train.first_step",
    )  # fmt: skip


def take_over(config: RunConfig, point: ResumePoint) -> tuple[Fence | None, bool]:
    """Claim the run folder, so that an earlier start of this run commits nothing from now on. Collective.

    Returns:
        Rank 0's right to commit (None on the others), and whether an earlier start committed something since `point`
        was chosen, so that the choice must be made again.

    Raises:
        CheckpointError: on every rank, when this start has lost the run to a later one.
    """
    fences: list[Fence] = []

    def claimed() -> bool:
        fences.append(inherited(config) or Fence.claim(config.folder))
        # After the claim no earlier start can commit, so what is listed now stays the newest.
        return committed_names(config) != point.seen

    changed = bool(messages.from_first(claimed))
    return (fences[0] if fences else None), changed


def inherited(config: RunConfig) -> Fence | None:
    """The claim that the batch script made for this start; None without one, when the ranks claim the run themselves.

    A rank that sleeps before its own claim must not take the run from the start that replaced it.

    Raises:
        CheckpointError: the script's claim was replaced by a later one.
    """
    verdict = Path(os.environ.get(VERDICT, ""))  # RUN/slurm/verdicts/INCARNATION.json
    if verdict.parent.name != "verdicts" or verdict.parents[2].resolve() != config.folder.resolve():
        return None
    owner = verdict.stem.rpartition(".")[0]
    fence, other = Fence.inherit(config.folder, owner), holder(config.folder)
    # The script claimed the run, so somebody else did after it: this start has lost before it began.
    if fence is None and other:
        raise lost(config.folder, other, owner)
    return fence


def committed_names(config: RunConfig) -> list[str]:
    """Names of the run's committed checkpoints, newest first; no file is read."""
    return [item.path.name for item in list_checkpoints(config.folder / "checkpoints") if item.committed]


def load(engine: TrainEngine, source: Checkpoint, step: int) -> str:
    """Fill the engine from a checkpoint of any topology; returns what it took on the rank that needed most. Collective."""
    began = time.monotonic()
    with PeakMemory() as memory:
        engine.load_state(source, step)
    shard = sum(view.nbytes for fragment in engine.fragments() for view in fragment.views.values())
    cost = torch.tensor([source.bytes_read, memory.rise, shard], dtype=torch.int64, device=platform.device())
    dist.all_reduce(cost, op=dist.ReduceOp.MAX)
    read, rise, held = (value / 2**20 for value in cost.tolist())
    seconds = time.monotonic() - began
    return (
        f"loaded: {read:,.1f} MiB a rank in {seconds:.1f} s, host memory rose by {rise:,.1f} MiB, shard {held:,.1f} MiB"
    )


def describe(point: ResumePoint) -> list[str]:
    """Lines for the operator about the choice."""
    lines = [f"checkpoint skipped: {path.name}: {reason}" for path, reason in point.skipped]
    if point.checkpoint is None:
        return [*lines, "resume: no checkpoint, starting from the beginning"]
    return [*lines, f"resume: step {point.checkpoint.step} from {point.checkpoint.path}"]


def anonymous_bytes() -> int:
    """Memory that this process allocated; file pages, which the kernel can drop at any time, do not count. 0 where unknown."""
    if not _STATUS.is_file():
        return 0
    for line in _STATUS.read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


class PeakMemory:
    """Context manager that samples allocated memory; `rise` is the peak above where it stood at the beginning, in bytes."""

    def __init__(self, interval_s: float = 0.005) -> None:
        self.rise, self._interval = 0, interval_s
        self._done = threading.Event()

    def __enter__(self) -> PeakMemory:
        self._before = anonymous_bytes()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        # A load that is shorter than the interval would not be seen at all.
        self._sample()

    def _watch(self) -> None:
        while not self._done.wait(self._interval):
            self._sample()

    def _sample(self) -> None:
        self.rise = max(self.rise, anonymous_bytes() - self._before)
