"""What is found out about a step, and how it is kept in the run folder."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from megabiomed.ground.figures import stored
from megabiomed.ground.files import read_json, write_atomic

FOLDER = "explained"


@dataclass
class Piece:
    """A piece of a document in a sample of the step.

    Attributes:
        sample: global number of the sample.
        source, epoch, window: the id of the sample.
        paper_id, title: of the document; where the corpus keeps no title, `begins` is what the document begins with.
        tokens: from this one of the document up to that one.
        place: of the first token in the window.
        quarantined: whether the document is listed in quarantine.jsonl now.
        loss: mean per predicted token, in nats; None: not computed, or nothing is predicted.
        loss_tokens: predicted tokens.
    """

    sample: int
    source: int
    epoch: int
    window: int
    paper_id: str
    title: str
    begins: str
    tokens: tuple[int, int]
    place: int
    quarantined: bool = False
    loss: float | None = None
    loss_tokens: int = 0

    @property
    def badness(self) -> float:
        """By which the worst is found: what is not finite is worse than any loss."""
        if self.loss is None:
            return -math.inf
        return self.loss if math.isfinite(self.loss) else math.inf


@dataclass
class Explanation:
    """What a step read.

    Attributes:
        first_sample, samples: global number of the first sample, and how many.
        stands: False where the run computed a step of that number anew later.
        event: the health event of this step, if there is one, without its lists.
        checkpoint: step of the checkpoint that the losses are computed with; None: without losses.
        note: why there are none, or what else to know.
        pieces: the worst first, or in the order of the batch.
    """

    run: str
    step: int
    first_sample: int
    samples: int
    stands: bool
    event: dict[str, Any] | None = None
    checkpoint: int | None = None
    note: str = ""
    pieces: list[Piece] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """Of the run."""
        return Path(self.run)

    @property
    def loss(self) -> float | None:
        """Mean per predicted token over the step, with the weights of the checkpoint; None without losses."""
        known = [piece for piece in self.pieces if piece.loss is not None]
        tokens = sum(piece.loss_tokens for piece in known)
        return sum((piece.loss or 0.0) * piece.loss_tokens for piece in known) / tokens if tokens else None

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is not finite is kept as a word."""
        values = asdict(self)
        for piece in values["pieces"]:
            piece["loss"] = None if piece["loss"] is None else stored(piece["loss"])
        values["loss"] = None if self.loss is None else stored(self.loss)
        return values


def keep(folder: Path, found: Explanation) -> Path:
    """Write it into the run folder, for the report; returns the file."""
    file = folder / FOLDER / f"step_{found.step:08d}_sample_{found.first_sample}.json"
    file.parent.mkdir(exist_ok=True)
    write_atomic(file, json.dumps(found.to_json(), ensure_ascii=False, indent=1))
    return file


def kept(folder: Path) -> Iterator[dict[str, Any]]:
    """The explanations of a run folder, by step."""
    for file in sorted((folder / FOLDER).glob("step_*.json")):
        yield read_json(file, dict)
