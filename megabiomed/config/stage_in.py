"""`stage_in:` of a cluster file: copies of what a run reads, on storage of each node."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt

from megabiomed.config.base import Section

Group = Literal["data", "init_from", "encoders"]
GROUPS: tuple[Group, ...] = ("data", "init_from", "encoders")
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kMGTP])(i?)B")
_POWERS = {"k": 1, "M": 2, "G": 3, "T": 4, "P": 5}
_ABSOLUTE = re.compile(r"(/|\$[A-Za-z_]|\$\{[A-Za-z_]\w*\}).*")


def bytes_of(text: str) -> int:
    """Bytes of a size with its unit: `500 GB` is 500e9, `500 GiB` is 500 * 2**30."""
    found = _SIZE.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is not a size; write it with its unit: `500 GB`, `1.5 TiB`")
    return int(float(found[1]) * (1024 if found[3] else 1000) ** _POWERS[found[2]])


def _size(text: str) -> str:
    if bytes_of(text) < 1:
        raise ValueError(f"{text!r} holds nothing")
    return text


def _with_unit(value: object) -> object:
    if isinstance(value, int | float):
        raise ValueError(f"{value} has no unit; write `{value} GB` or `{value} GiB`")
    return value


def _folder(text: str) -> str:
    if not _ABSOLUTE.fullmatch(text) or "\0" in text or "\n" in text or ".." in text.split("/"):
        raise ValueError(f"{text!r} is not an absolute folder; write e.g. `/scratch/$USER/megabiomed`")
    return text


class StageInConfig(Section):
    """Copies of token stores, datasets and weights on storage of each node. What cannot be copied is read where it is."""

    folder: Annotated[str, AfterValidator(_folder)]
    """Folder on storage of the node, absolute. Environment variables in it are replaced on the node
    (`/scratch/$USER/megabiomed`); it must belong to you."""
    max_size: Annotated[str, BeforeValidator(_with_unit), AfterValidator(_size)] | None = None
    """Most that the copies in this folder take, those of other runs too: `500 GB`, `1.5 TiB`. Those that were not used for
    longest are removed first. null: as much as is free."""
    what: list[Group] = Field(default_factory=lambda: list(GROUPS), min_length=1)
    """What is copied: data (token stores, questions, datasets), init_from (Hugging Face folders that a language model starts
    from), encoders (their weights)."""
    minutes: PositiveInt = 60
    """Minutes after which a node stops copying; it then reads what is missing where it is. At most half of the time before the
    warning of the time limit."""

    @property
    def max_bytes(self) -> int | None:
        """`max_size` in bytes."""
        return None if self.max_size is None else bytes_of(self.max_size)
