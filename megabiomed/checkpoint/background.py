"""Saving beside the training: the pause is one copy to host memory, files are written by a thread."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from megabiomed.checkpoint.checksums import checksums
from megabiomed.checkpoint.commit import CheckpointWriter, RunState
from megabiomed.checkpoint.logical import Box, Fragment


class BackgroundSaver:
    """Runs one `CheckpointWriter.save` at a time in a thread; all ranks use it in the same order.

    The copy of what this rank owns stays allocated for the next save (page-locked when the state is on a GPU). The
    writer's collectives run in the thread, so that its `Ranks` must be of a gloo group that nothing else uses.

    Args:
        after: called with the path after each commit, in the thread (retention, say).
    """

    def __init__(self, writer: CheckpointWriter, after: Callable[[Path], object] | None = None) -> None:
        self._writer, self._after = writer, after
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        # Page-locking memory is slow, so the copies are made once and reused by every save.
        self._copies: dict[tuple[Box, str], torch.Tensor] = {}

    def save(self, step: int, fragments: Iterable[Fragment], state: RunState) -> None:
        """Copy the state and start writing it. Waits first for the save before, and raises what that one raised."""
        # One save at a time: the next copy would overwrite what the thread is still writing.
        self.wait()
        owned = [fragment for fragment in fragments if fragment.owner]
        held = [self._hold(fragment) for fragment in owned]
        # Of the state itself, not of the copies: what happens to those until they are hashed is found by the writer.
        views = [(number, kind) for number, fragment in enumerate(owned) for kind in fragment.views]
        sums = checksums(owned[number].views[kind] for number, kind in views).tolist() if views else []
        for (number, kind), value in zip(views, sums, strict=True):
            held[number].sums[kind] = value
        # Copies into page-locked memory are asynchronous, and the next optimizer step changes the state in place.
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        # Not a daemon thread: an interpreter that exits waits until the checkpoint is committed.
        self._thread = threading.Thread(
            target=self._run, args=(step, held, copy.deepcopy(state)), name=f"save-step-{step}"
        )
        self._thread.start()

    @property
    def writing(self) -> bool:
        """Whether a save is still under way on this rank."""
        return self._thread is not None and self._thread.is_alive()

    def ended(self, within_s: float | None = None) -> bool:
        """Whether nothing is being written any more, after so many seconds at the most (None: however long it takes)."""
        if self._thread is not None:
            self._thread.join(within_s)
        return not self.writing

    def take_failure(self) -> BaseException | None:
        """What the last save raised, once; None for one that went well or is still under way."""
        if self.writing:
            return None
        failure, self._failure = self._failure, None
        return failure

    def wait(self) -> None:
        """Return when nothing is being written.

        Raises:
            SaveError: the last save failed.
        """
        if self._thread is not None:
            self._thread.join()
        self._thread = None
        failure = self._failure
        self._failure = None
        if failure is not None:
            raise failure

    def _hold(self, fragment: Fragment) -> Fragment:
        views = {}
        for kind, view in fragment.views.items():
            key = fragment.box, kind
            if key not in self._copies or self._copies[key].dtype != view.dtype:
                self._copies[key] = torch.empty(view.shape, dtype=view.dtype, pin_memory=view.is_cuda)
            views[kind] = self._copies[key].copy_(view.detach(), non_blocking=True)
        return Fragment(fragment.box, views)

    def _run(self, step: int, held: list[Fragment], state: RunState) -> None:
        try:
            path = self._writer.save(step, held, state)
            if self._after:
                self._after(path)
        except BaseException as error:
            # Kept for the training thread: nobody sees an exception that ends another thread.
            self._failure = error
