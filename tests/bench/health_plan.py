"""What `make bench-health` injects into which engine, and the tiny run that it injects it into."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megabiomed.config import RunConfig

BATCH = 8
WARM = 300
"""Steps before the first garbage: the window of the spikes has to be full, and the loss down."""
ENGINES: dict[str, tuple[int, dict[str, Any]]] = {
    "zero0": (2, {"zero_stage": 0}),
    "zero1": (2, {"zero_stage": 1}),
    "zero3": (2, {"zero_stage": 3}),
    "tp2": (4, {"zero_stage": 1, "tensor_parallel_size": 2}),
}
"""Ranks and `parallel` of each engine."""


@dataclass(frozen=True)
class Plan:
    """One group of ranks that lives as long as its events take.

    Attributes:
        kind: of the events, a name of `bench_health.KINDS`.
        engine: a name of `ENGINES`.
        steps: of the run.
        at: steps with an event, ascending; the first step is 1.
        overrides: sections of the configuration.
        avoid: (first, number) of global samples that the run never reads.
        settings: what the injection needs to know.
    """

    kind: str
    engine: str
    corpus: str
    folder: str
    seed: int
    steps: int
    at: tuple[int, ...] = ()
    overrides: dict[str, dict[str, Any]] | None = None
    avoid: tuple[tuple[int, int], ...] = ()
    settings: dict[str, float] | None = None

    @property
    def world(self) -> int:
        """Ranks."""
        return ENGINES[self.engine][0]

    @property
    def place(self) -> Path:
        """The folder of the run."""
        return Path(self.folder)

    def dice(self, *more: object) -> random.Random:
        """Random numbers that are the same on every rank, if `more` is."""
        return random.Random(repr((self.seed, self.kind, self.engine, *more)))

    def write(self, file: Path) -> None:
        """For the ranks."""
        file.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, file: Path) -> Plan:
        """What `write` wrote."""
        values = json.loads(file.read_text())
        values["at"] = tuple(values["at"])
        values["avoid"] = tuple((first, number) for first, number in values["avoid"])
        return cls(**values)

    def config(self) -> RunConfig:
        """A model of two layers in fp32, on packed windows of generated papers."""
        values: dict[str, dict[str, Any]] = {
            "model": {"vocab_size": 600, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
                      "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64},
            "data": {"train": [{"path": str(Path(self.corpus) / "train")}], "seq_length": 32, "micro_batch_size": 4,
                     "global_batch_size": BATCH},
            # A constant rate: a run that leaves batches out has the same at each of its updates.
            "optimizer": {"lr": 3e-3, "schedule": "constant", "warmup_steps": 0, "weight_decay": 0.1},
            "train": {"steps": self.steps, "precision": "fp32"},
            "parallel": ENGINES[self.engine][1],
            "checkpoint": {"save_every": 0},
            "tracking": {"kind": None},
        }  # fmt: skip
        for section, keys in (self.overrides or {}).items():
            values[section] = {**values.get(section, {}), **keys}
        return RunConfig.model_validate({"name": "bench", "seed": self.seed, "run_dir": self.folder, **values})


def spaced(events: int, gap: int, dice: random.Random, first: int) -> tuple[int, ...]:
    """Steps of so many events, one at a random place in every `gap` steps, never two in a row."""
    return tuple(first + number * gap + dice.randrange(1, gap) for number in range(events))
