"""Every kind of run: how its file is read, what is checked before the start, what trains it.

The command line, `submit`, chains and the ranks themselves look a kind up here. A kind of your own is a `Kind` that a run file
names by `kind: package.module:attribute`; docs/extending.md shows one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from megabiomed.config import RunConfig, kinds, load_config, shipped
from megabiomed.config.kinds import ConfigKind
from megabiomed.config.yaml_text import read_yaml, read_yaml_file
from megabiomed.ground.errors import ConfigError
from megabiomed.ground.registry import attribute
from megabiomed.processes.signals import StopFlag
from megabiomed.runs.history import check_place
from megabiomed.runs.tying import with_tying

if TYPE_CHECKING:
    from megabiomed.runs.module import Run

WORKER = "megabiomed.runs.worker"
"""Module that every rank of a run of any kind runs."""


@dataclass(frozen=True)
class Kind(ConfigKind):
    """A kind of run. The three functions are named by `module:function`, so that a name costs no import of torch.

    Attributes:
        title: with its article, for messages: "an alignment run".
        trainer: trains on one rank: (configuration, part or None, stop flag) -> "finished", "stopped" or "ended".
        check: refuses what cannot run on so many processes: (configuration, processes) -> None. The topology was checked.
        describe: what the run would compute and hold, for a dry run: (configuration, processes) -> lines.
        run: what is trained on what: (configuration, part or None) -> `runs.module.Run`; None: no step can be replayed.
    """

    title: str
    trainer: str
    check: str
    describe: str
    run: str | None = None

    def read(self, run: str, overrides: list[str]) -> RunConfig:
        """The configuration of a run file of this kind, with what it leaves to the model that the run begins with.

        Raises:
            CheckpointError: it is that of a run folder which was moved.
        """
        config = load_config(run, overrides, self.config)
        check_place(shipped.find("runs", run), config, overrides)
        return with_tying(config)

    def train(self, config: RunConfig, part: str | None, stop: StopFlag) -> str:
        """Train on this rank; says how it ended."""
        return cast(Callable[[RunConfig, str | None, StopFlag], str], attribute(self.trainer))(config, part, stop)

    def run_of(self, config: RunConfig, part: str | None) -> Run:
        """What a run, or one part of it, trains on what.

        Raises:
            ConfigError: the kind does not say.
        """
        if self.run is None:
            raise ConfigError(f"steps of {self.title} cannot be replayed", do="name `run` in its `Kind`")
        return cast("Callable[[RunConfig, str | None], Run]", attribute(self.run))(config, part)

    def check_start(self, config: RunConfig, world: int) -> None:
        """Refuse what cannot run; a few milliseconds to seconds, no rank is started."""
        cast(Callable[[RunConfig, int], None], attribute(self.check))(config, world)

    def description(self, config: RunConfig, world: int) -> list[str]:
        """Lines of a dry run."""
        return cast(Callable[[RunConfig, int], list[str]], attribute(self.describe))(config, world)


def _shipped(config: ConfigKind, title: str) -> Kind:
    name = config.name
    preview = f"megabiomed.runs.preview.{name}"
    return Kind(
        name, config.section, config.config, title,
        trainer=f"megabiomed.runs.{name}:train", check=f"{preview}:check", describe=f"{preview}:describe",
        run=f"megabiomed.runs.{name}:run_of",
    )  # fmt: skip


PRETRAIN = _shipped(kinds.PRETRAIN, "a pretraining run")
ALIGN = _shipped(kinds.ALIGN, "an alignment run")
FINETUNE = _shipped(kinds.FINETUNE, "a fine-tuning run")
SHIPPED = {kind.name: kind for kind in (PRETRAIN, ALIGN, FINETUNE)}


def kind_of(values: object) -> Kind:
    """The kind of the values of a run file.

    Raises:
        ConfigError: its key `kind` names none.
    """
    found = kinds.kind_of(values)
    return found if isinstance(found, Kind) else SHIPPED[found.name]


def kind_of_file(run: str, overrides: list[str]) -> Kind:
    """The kind of a run file, or of a shipped one by its name.

    Raises:
        ConfigError: there is no such file, or it is a chain of runs.
    """
    if not Path(run).is_file() and run in shipped.names("chains") and run not in shipped.names("runs"):
        raise _is_chain(run)
    values = read_yaml_file(shipped.find("runs", run))
    if isinstance(values, dict) and "stages" in values:
        raise _is_chain(run)
    named = [text.removeprefix("kind=") for text in overrides if text.startswith("kind=")]
    # As for all keys, the last override counts.
    return kind_of({**values, "kind": read_yaml(named[-1], run)} if named else values)


def kind_of_config(config: RunConfig) -> Kind:
    """The kind of a configuration that was read."""
    return kind_of({**dict.fromkeys(type(config).model_fields), "kind": config.kind})


def read_run(run: str, overrides: list[str]) -> RunConfig:
    """The configuration of a run file of any kind; a key that is wrong is a `ConfigError`."""
    return kind_of_file(run, overrides).read(run, overrides)


def check_kind(found: Kind, run: str, expected: str | None) -> None:
    """Refuse a run file of another kind than a command is for.

    Args:
        expected: name of the kind; None: any.
    """
    if expected not in (None, found.name):
        own = f"`megabiomed {found.name} {run}` or " if found.name in SHIPPED else ""
        raise ConfigError(f"{run} is {found.title}", do=f"use {own}`megabiomed run {run}`")


def part_run(config: RunConfig, part: str | None) -> RunConfig:
    """The run of one part, with a folder of its own; without a part the run itself."""
    return config if part is None else config.part(part)


def _is_chain(run: str) -> ConfigError:
    return ConfigError(f"{run} is a chain of runs", do=f"use `megabiomed submit {run} --cluster CLUSTER`")
