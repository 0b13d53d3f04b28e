"""What a path can be, and what it can be used for; `locate` says which it is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What a path can be, as messages say it."""

    RUN = "a run folder"
    ALIGNMENT = "an alignment run"
    STAGE = "a stage of an alignment"
    CHECKPOINT = "a checkpoint"
    STAGE_CHECKPOINT = "a checkpoint of an alignment"
    HUGGING_FACE = "a Hugging Face folder"
    EXPORT = "an exported alignment"
    ADAPTER = "an adapter in the format of peft"
    RUNS = "a folder of runs"
    TOKEN_STORE = "a token store"
    ANSWER_STORE = "a store of questions"
    CORPUS = "a corpus"
    HUB_CACHE = "the Hugging Face hub cache of a repository"
    FILE = "a file"
    FOLDER = "a folder without a run, a checkpoint or a model"
    MISSING = "no file or folder"


_SAVED = {Kind.RUN, Kind.STAGE, Kind.CHECKPOINT, Kind.STAGE_CHECKPOINT}
ALIGNMENTS = {Kind.ALIGNMENT, Kind.STAGE, Kind.STAGE_CHECKPOINT}
"""What belongs to a run whose weights are spread over the checkpoints of its stages."""
WEIGHTS = {Kind.HUGGING_FACE, Kind.EXPORT}
"""Folders that transformers loads."""

_ALSO = "`megabiomed evaluate`, `generate` and `checkpoint diff` take Hugging Face folders too"
_TEXTS = "`megabiomed generate` and `evaluate` take language models"


@dataclass(frozen=True)
class Use:
    """What somebody wants a path for.

    Attributes:
        expected: the kinds in words.
        instead: what takes the others, for the message.
    """

    expected: str
    kinds: frozenset[Kind]
    instead: str | None = None


SAVED = Use("a run folder, a stage of an alignment or a checkpoint", frozenset(_SAVED | ALIGNMENTS), _ALSO)
"""Something with checkpoints in it, or one of them."""
TRANSFORMERS = Use("a Hugging Face folder", frozenset(WEIGHTS), _ALSO)
"""A language model as transformers loads it."""
MODEL = Use("a run folder, a checkpoint or a Hugging Face folder", frozenset(_SAVED | ALIGNMENTS | WEIGHTS))
"""A language model."""
ALIGNED = Use(
    "an alignment run, one of its stages, a checkpoint of it or an exported alignment",
    frozenset(ALIGNMENTS | {Kind.EXPORT}),
    _TEXTS,
)
"""A language model with encoders."""
ALIGNED_RUN = Use("an alignment run, one of its stages or a checkpoint of it", frozenset(ALIGNMENTS), _TEXTS)
"""The same before its export."""
RECORD = Use("a run folder, a stage of an alignment or a checkpoint", frozenset(_SAVED))
"""The folder in which one run keeps its metrics."""
OWN_FOLDER = Use("a run folder or a stage of an alignment", frozenset({Kind.RUN, Kind.STAGE}))
"""The folder of one run, named itself: something in it is removed."""
TRAINED = Use("a run folder, an alignment or a stage of it", frozenset({Kind.RUN, Kind.STAGE, Kind.ALIGNMENT}))
"""The folder of a run, whose steps are looked at."""
SUBMITTED = Use(
    "a run folder, a checkpoint or a folder of runs", frozenset(_SAVED | ALIGNMENTS | {Kind.RUNS, Kind.FOLDER})
)
"""Runs of a scheduler, one or many."""

_TRAINED = "give the run that was trained on it"
ADVICE = {
    Kind.MISSING: "check the path",
    Kind.HUB_CACHE: "give one of its folders snapshots/<commit>",
    Kind.ADAPTER: "give the run or the checkpoint that it was exported from",
    Kind.TOKEN_STORE: _TRAINED,
    Kind.ANSWER_STORE: _TRAINED,
    Kind.CORPUS: _TRAINED,
}
"""What to do with a path that cannot be used, where that depends on nothing but its kind."""
