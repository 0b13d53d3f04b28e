"""The run that nobody interrupts, for all runs of any length with the same data and a constant learning rate."""

from __future__ import annotations

import os
from pathlib import Path

from megabiomed.config import load_config
from megabiomed.data.loader import open_training_data
from megabiomed.data.progress import DataProgress
from support.runs import events, losses
from support.zygote import run_python


class Reference:
    """Trains once, for as many steps as the longest run that is compared with it.

    Args:
        words: overrides of every run that is compared with this one.
    """

    def __init__(self, folder: Path, run_text: str, words: list[str], steps: int) -> None:
        self.folder = folder / "run"
        self.steps = steps
        self._words = words
        self._file = folder / "run.yaml"
        self._file.write_text(run_text)

    def run(self) -> None:
        """Train, unless that is done."""
        if self.folder.is_dir():
            return
        words = ["pretrain", str(self._file), f"run_dir={self.folder}", f"train.steps={self.steps}", *self._words]
        done = run_python(["-m", "megabiomed.cli", *words], {**os.environ, "OMP_NUM_THREADS": "1"}, timeout_s=900)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    def losses(self, steps: int) -> dict[int, float]:
        """Losses of the first steps."""
        self.run()
        assert steps <= self.steps
        return {step: loss for step, loss in losses(self.folder).items() if step <= steps}

    def hashes(self, steps: int) -> dict[int, str]:
        """Hashes of the samples of the first 1, 2, ... steps, from the order of the data alone."""
        config = load_config(str(self._file), self._words)
        loader = open_training_data(config.data, config.seed)
        size, progress = config.data.global_batch_size, DataProgress(identity=loader.identity)
        found = {}
        for step in range(1, steps + 1):
            progress = progress.advance(loader.order.sample_ids(progress.next_sample, size))
            found[step] = progress.ids_hash
        return found

    def ids_hash(self, steps: int) -> str:
        """Hash of the samples of the first steps, from the order of the data alone."""
        found = self.hashes(steps)[steps]
        if steps == self.steps:
            assert found == events(self.folder)[-1]["ids_hash"]
        return found
