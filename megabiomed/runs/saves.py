"""When a run saves, and what it does when a save fails."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch
import torch.distributed as dist

from megabiomed import __version__
from megabiomed.checkpoint.background import BackgroundSaver
from megabiomed.checkpoint.commit import CheckpointWriter, Ranks, RunState
from megabiomed.checkpoint.fence import Fence
from megabiomed.checkpoint.space import check_space, stored_bytes
from megabiomed.checkpoint.state import Health, Topology, TrainerState
from megabiomed.config import RunConfig, to_yaml
from megabiomed.config.time_limits import time_limits
from megabiomed.data.progress import DataProgress
from megabiomed.engine.build import TrainEngine
from megabiomed.ground.errors import SaveError
from megabiomed.processes import messages, platform
from megabiomed.runs.unsaved import LAST_ATTEMPTS, Trouble, Unsaved

SLOW_S = 60.0
"""Longest time for which the training waits at a due save for the one before; then it goes on and saves later."""


class Checkpoints:
    """Saves a run in the background and keeps what retention asks for; a save that fails is tried again with newer state.

    Args:
        fence: rank 0's right to commit, from `take_over`.
        step: that the run resumed from, or 0: what is behind it is at risk.
    """

    def __init__(
        self, config: RunConfig, engine: TrainEngine, tokenizer: Path | None, fence: Fence | None, step: int = 0
    ) -> None:
        self.config = config
        self.engine = engine
        self.tokenizer = tokenizer
        # A gloo group of its own: the writer's collectives run in a thread beside the training's.
        limits = time_limits(config.train)
        ranks = Ranks.of_group(platform.patient_group(limits.patient_s))
        # The hang guard watches this wait as a part of the step.
        self._patience_s = limits.guard_s / 2 or SLOW_S
        writer = CheckpointWriter(config.folder / "checkpoints", ranks, fence)
        self._writer = writer
        self._saver = BackgroundSaver(writer, after=self._note_commit)
        self._committed: SimpleQueue[int] = SimpleQueue()
        self._notes: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._unsaved = Unsaved(config.checkpoint.max_unsaved_steps)
        self._agreed = Trouble.NONE
        self._safe_step = step
        self._saved_step = -1
        self._under_way = False
        self._saved_at = time.monotonic()

    def check_space(self) -> None:
        """Refuse to begin a run that could not save once. Collective.

        Raises:
            SaveError: on every rank.
        """
        needed = torch.tensor(stored_bytes(self.engine.fragments()), device=platform.device())
        dist.all_reduce(needed)
        messages.from_first(lambda: self._check_space(int(needed)))

    def _check_space(self, needed: int) -> None:
        try:
            try:
                check_space(self._writer.folder, needed, dist.get_world_size(), quotas=True)
            except OSError:
                self._prune()  # a start that died in the midst of a save left a folder as large as a checkpoint
                check_space(self._writer.folder, needed, dist.get_world_size(), quotas=True)
        except OSError as error:
            raise SaveError(
                f"{self._writer.folder} has no room for a checkpoint",
                got=error.strerror, do="free space there, lower checkpoint.keep_last, or choose another run_dir",
            ) from error  # fmt: skip

    def trouble(self, step: int) -> Trouble:
        """How this rank stands with its last save after a step; the ranks agree on the largest and hand it to `react`."""
        self._collect()
        return self._unsaved.trouble(step, self._saver.writing)

    def react(self, agreed: Trouble) -> None:
        """Take what the ranks agree on.

        Raises:
            SaveError: on every rank, when no save can go well or `checkpoint.max_unsaved_steps` is passed.
        """
        self._agreed = agreed
        if agreed == Trouble.FATAL:
            self._saver.ended(min(SLOW_S, self._patience_s))
            self._collect()
            raise self._unsaved.error or SaveError(
                "a save did not end in time, on this rank or another one",
                got=f"more than checkpoint.max_unsaved_steps = {self.config.checkpoint.max_unsaved_steps} steps",
                do="earlier checkpoints are as they were; look at the storage of the run folder, and start the run again",
            )

    def due(self, step: int) -> bool:
        """Whether it is time to save after `step` steps, the same on all ranks. Collective when minutes are configured."""
        if self._agreed != Trouble.NONE:
            return self._agreed == Trouble.RETRY
        settings = self.config.checkpoint
        # keep_every saves as well, or there would be nothing to keep.
        if any(every and step % every == 0 for every in (settings.save_every, settings.keep_every)):
            return True
        if not settings.save_every_minutes:
            return False
        # Clocks of ranks differ a little: the first one that is late decides for all.
        return messages.on_any_rank(time.monotonic() - self._saved_at >= 60 * settings.save_every_minutes)

    def save(
        self, step: int, progress: DataProgress, tokens: int, last: bool = False, health: Health | None = None
    ) -> bool:
        """Start saving after `step` steps; the training waits only for the copy to host memory. Collective.

        Args:
            last: wait for the save before, however long it takes; otherwise for a minute at the most.

        Returns:
            False when that one is still being written: this save is owed.
        """
        if not self._free(step, last):
            self._unsaved.late(step)
            self._note(step, "the save before is still being written")
            return False
        self._collect()
        # The end of a run asks once more for the step that was just saved.
        if step == self._saved_step:
            return True
        self._saver.save(step, self.engine.fragments(), self._state(step, progress, tokens, health))
        self._saved_step, self._saved_at = step, time.monotonic()
        self._under_way, self._unsaved.owed = True, False
        return True

    def _state(self, step: int, progress: DataProgress, tokens: int, health: Health | None) -> RunState:
        mesh = self.engine.mesh
        trainer = TrainerState(
            global_step=step,
            tokens_consumed=tokens,
            samples_consumed=progress.next_sample,
            global_batch_size=self.config.data.global_batch_size,
            data=progress,
            health=health,
            seed=self.config.seed,
            topology=Topology(
                tensor=mesh.size("tp"), pipeline=mesh.size("pp"), data=mesh.size("dp"), engine=_engine(self.config),
                encoder_ranks=mesh.extra_ranks or None,
            ),
            megabiomed=__version__,
            **self.engine.extra_state(),
        )  # fmt: skip
        shapes = self.engine.stored_tensors()
        return RunState(
            trainer, self.config.model.model_dump(mode="json"), to_yaml(self.config), self.tokenizer, shapes
        )

    def rewound(self) -> None:
        """The run went back: a step that was saved before will be another one."""
        self._saved_step = -1

    def committed(self) -> list[int]:
        """Steps whose checkpoints were committed since the last call, in their order."""
        return _emptied(self._committed)

    def failures(self) -> list[dict[str, Any]]:
        """Saves that failed or were put off since the last call, as values of an event: step, error, at_risk, again_s."""
        return _emptied(self._notes)

    def wait(self) -> float | None:
        """Wait until the last save has ended. All ranks get the same answer.

        Returns:
            None when it is committed; else seconds after which it is worth another try.

        Raises:
            SaveError: it cannot go well, or was tried often enough.
        """
        self._saver.ended()
        self._collect()
        unsaved = self._unsaved
        if unsaved.attempts == 0 and not unsaved.fatal:
            return None
        if unsaved.error is not None and (unsaved.fatal or unsaved.attempts >= LAST_ATTEMPTS):
            raise unsaved.error
        return unsaved.pause_s

    def _free(self, step: int, last: bool) -> bool:
        """Whether no rank is writing any more, after the wait. Collective where the wait has a limit."""
        if last or not self.config.checkpoint.max_unsaved_steps:
            return self._saver.ended()
        # A run that was told once that its storage is slow does not stand still for it again.
        waits = min(SLOW_S, self._patience_s) if self._agreed == Trouble.NONE else 0.0
        return not messages.on_any_rank(not self._saver.ended(waits))

    def _collect(self) -> None:
        """See how the last save ended, if it has."""
        if not self._under_way or self._saver.writing:
            return
        self._under_way = False
        error = self._saver.take_failure()
        if error is None:
            self._safe_step = self._saved_step
            self._unsaved.saved()
            return
        step, self._saved_step = self._saved_step, -1
        self._unsaved.failed(step, error)
        self._note(step, str(error))

    def _note(self, step: int, error: str) -> None:
        self._notes.put(
            {"step": step, "error": error, "at_risk": step - self._safe_step, "again_s": self._unsaved.pause_s}
        )

    def _note_commit(self, path: Path) -> None:
        # In the thread of the save. Trackers belong to the training's thread, which asks for the steps.
        self._committed.put(int(path.name.removeprefix("step_")))
        # Only after the commit: an older checkpoint goes when a newer one is safe. What stays goes after the next one.
        with suppress(OSError):
            self._prune()

    def _prune(self) -> None:
        self._writer.prune(self.config.checkpoint.keep_last, self.config.checkpoint.keep_every)


def _emptied(queue: SimpleQueue[Any]) -> list[Any]:
    found = []
    while not queue.empty():
        found.append(queue.get())
    return found


def _engine(config: RunConfig) -> str:
    parallel = config.parallel
    return "fsdp2" if parallel.engine == "fsdp2" else f"zero{parallel.zero_stage}"
