"""What a stage can be: training of some kind (told by its run file), or any other command of megabiomed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megabiomed.config import RunConfig, kinds, load_config, shipped
from megabiomed.config.align import AlignRunConfig
from megabiomed.config.base import Section
from megabiomed.config.yaml_text import read_yaml
from megabiomed.ground.errors import ConfigError

COMMAND = "command"


@dataclass(frozen=True)
class Kind:
    """A kind of training.

    Attributes:
        name: also the command that starts it: `megabiomed NAME RUN`.
        section: top-level key that only run files of this kind have; empty for pretraining.
        config: class of its run files.
        worker: module that every rank runs, on CONFIG.yaml and, for a kind with parts, the name of the part.
    """

    name: str
    section: str
    config: type[RunConfig]
    worker: str


# Every kind has a worker of the same form; the first whose section is in the run file counts.
KINDS = (
    *(Kind(section, section, config, f"megabiomed.runs.worker_{section}") for section, config in kinds.KINDS.items()),
    Kind("pretrain", "", RunConfig, "megabiomed.runs.worker_pretrain"),
)


def kind_of(run: str) -> Kind:
    """The kind of a run file."""
    values = read_yaml(shipped.find("runs", run).read_text(), run)
    return next(kind for kind in KINDS if not kind.section or (isinstance(values, dict) and kind.section in values))


def read_run(run: str, overrides: list[str]) -> RunConfig:
    """A run file of any kind; its run folder made absolute."""
    config = load_config(run, overrides, kind_of(run).config)
    return config.model_copy(update={"run_dir": config.folder.absolute()})


def parts(config: RunConfig) -> list[str]:
    """Names of the parts that are jobs of their own: the stages of an alignment; none for others."""
    return [stage.name for stage in config.align.stages] if isinstance(config, AlignRunConfig) else []


def part_run(config: RunConfig, part: str | None) -> RunConfig:
    """The run of one part, with a folder of its own; the run itself without parts."""
    if part is None or not isinstance(config, AlignRunConfig):
        return config
    names = parts(config)
    if part not in names:
        raise ConfigError(f"{config.name} has no such stage", got=repr(part), expected=", ".join(names))
    return config.stage_run(names.index(part))


def read_paths(section: Section, at: str = "") -> Iterator[tuple[str, Path]]:
    """(key, path) of everything on disk that a configuration reads."""
    for name in type(section).model_fields:
        for key, value in _entries(f"{at}{name}", getattr(section, name)):
            if isinstance(value, Section):
                yield from read_paths(value, f"{key}.")
            elif isinstance(value, Path) and key != "run_dir":
                yield key, value
            elif key == "checkpoint.resume" and value not in ("auto", "never"):
                yield key, Path(value)


def _entries(key: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, list | dict):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return [(f"{key}.{name}", item) for name, item in pairs]
    return [(key, value)]
