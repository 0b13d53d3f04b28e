"""Whether a run trains output head and embedding as one matrix, where its file leaves that to what it begins with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from megabiomed.config import RunConfig
from megabiomed.config.models import ModelConfig
from megabiomed.ground.errors import UserError

R = TypeVar("R", bound=RunConfig)


def with_tying(config: R) -> R:
    """The configuration with `model.tie_word_embeddings` as in its own checkpoint, else as in the model that it begins with.

    A value that the file gives stays, and so does null where nothing is there yet that tells it; the run then reads it again.
    """
    if config.model.tie_word_embeddings is not None:
        return config
    known = (tied for place in _places(config) if (tied := _tied(place, config.model)) is not None)
    tied = next(known, None)
    if tied is None:
        return config
    # Written out, so that ranks and later starts need not look again.
    return config.model_copy(update={"model": config.model.model_copy(update={"tie_word_embeddings": tied})})


def _places(config: RunConfig) -> Iterator[Path]:
    """What tells it, the first that is there before the others."""
    # A run that has been trained goes on as it was, whatever it once began with.
    yield config.folder
    if config.checkpoint.resume not in ("auto", "never"):
        yield Path(config.checkpoint.resume)
    if config.start is not None:
        yield config.start
    elif config.model.init_from is not None:
        yield config.model.init_from


def _tied(place: Path, model: ModelConfig) -> bool | None:
    """As the checkpoint or Hugging Face folder at a place has it; None where none is there that can be read."""
    if not place.is_dir():
        return None
    # Imported here: they load torch, which the file of a run without any of these places does not need.
    from megabiomed.checkpoint.locate import locate
    from megabiomed.model.hf_files import ties_its_head

    located = locate(place)
    try:
        if located.is_hugging_face:
            return ties_its_head(place)
        return bool(located.open().architecture.get("tie_word_embeddings", False))
    except UserError:
        return None  # the start of the run says what is wrong with it
