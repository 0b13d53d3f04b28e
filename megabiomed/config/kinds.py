"""Which kind of run a file describes: its key `kind` says so, or else its sections do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from megabiomed.config.align import AlignRunConfig
from megabiomed.config.base import parse
from megabiomed.config.finetune import FinetuneRunConfig
from megabiomed.config.schema import RunConfig
from megabiomed.config.yaml_text import read_yaml
from megabiomed.ground.registry import Registry


@dataclass(frozen=True)
class ConfigKind:
    """How the files of one kind of run are read. How such a run is trained stands in `megabiomed.runs.kinds`.

    Attributes:
        name: value of the key `kind`, and the command that starts it.
        section: top-level key that only files of this kind have; empty for the kind of the files without one.
        config: class of the files.
    """

    name: str
    section: str
    config: type[RunConfig]


ALIGN = ConfigKind("align", "align", AlignRunConfig)
FINETUNE = ConfigKind("finetune", "finetune", FinetuneRunConfig)
PRETRAIN = ConfigKind("pretrain", "", RunConfig)
SHIPPED = (ALIGN, FINETUNE, PRETRAIN)
"""The first whose section is in a file counts."""

_KINDS: Registry[ConfigKind] = Registry(
    "kind of run",
    {kind.name: f"{__name__}:{kind.name.upper()}" for kind in SHIPPED},
    lambda held: isinstance(held, ConfigKind),
    "a megabiomed.runs.kinds.Kind",
)


def kind_of(values: object) -> ConfigKind:
    """The kind of the values of a run file.

    Raises:
        ConfigError: its key `kind` names none.
    """
    held = values if isinstance(values, dict) else {}
    if held.get("kind") is not None:
        return _KINDS.find(str(held["kind"]))
    return next(kind for kind in SHIPPED if not kind.section or kind.section in held)


def stored_run(text: str, source: str) -> RunConfig:
    """The effective configuration that a run or checkpoint keeps, of whatever kind."""
    values: Any = read_yaml(text, source)
    return parse(kind_of(values).config, values, source)
