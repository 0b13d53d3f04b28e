"""A chain of stages, as its file describes it: each with its own nodes and time, each waiting for those before it."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, PositiveInt, model_validator

from megabiomed.config import shipped
from megabiomed.config.base import Section, parse
from megabiomed.config.cluster import Flags, Time
from megabiomed.config.notify import NotifyConfig
from megabiomed.config.yaml_text import read_yaml_file
from megabiomed.ground.errors import ConfigError, LaunchError
from megabiomed.runs.kinds import kind_of_file, read_run

_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,60}$"


class ComponentConfig(Section):
    """More nodes of another kind for the same run: SLURM starts them together (a heterogeneous job)."""

    nodes: PositiveInt = 1
    """Nodes."""
    ranks_per_node: PositiveInt = 1
    """Ranks on each."""
    gpus_per_node: int = Field(0, ge=0)
    """GPUs of each that the job takes."""
    cpus_per_task: PositiveInt | None = None
    """CPU cores of a rank there; null takes as many as on the other nodes."""
    sbatch: Flags = Field(default_factory=dict)
    """sbatch options of these nodes: `partition: other`."""


class ChainStageConfig(Section):
    """One stage of a chain: a run, or a command."""

    name: str = Field(pattern=_NAME)
    """Name of the stage."""
    run: str | None = None
    """Run file of any kind, or the name of one in configs/runs."""
    overrides: list[str] = Field(default_factory=list)
    """Keys of the run to override, as on the command line."""
    stage: str | None = None
    """One stage of an alignment run; null makes a job of each, one after the other."""
    command: list[str] = Field(default_factory=list)
    """Instead of a run: the words after `megabiomed`, for one process, e.g. `[corpus, build, p.jsonl, --output, corpus]`."""
    makes: list[Path] = Field(default_factory=list)
    """What the command writes; later stages may name it before it exists."""
    cluster: str | None = None
    """Cluster file of this stage, or the name of one in configs/clusters; null takes that of the chain."""
    nodes: PositiveInt = 1
    """Nodes of the job."""
    time: Time | None = None
    """Time limit; null takes the cluster's."""
    after: list[str] | None = None
    """Stages that must finish first; null is the one before, [] none."""
    sbatch: Flags = Field(default_factory=dict)
    """sbatch options of this stage, over those of the cluster."""
    components: list[ComponentConfig] = Field(default_factory=list)
    """Nodes of other kinds, whose ranks follow those of `nodes`."""

    @model_validator(mode="after")
    def _one_work(self) -> ChainStageConfig:
        if (self.run is None) == (not self.command):
            raise ValueError(f"stage {self.name} needs either `run:` or `command:`")
        of_runs = {"overrides": self.overrides, "stage": self.stage, "components": self.components}
        wrong = [key for key, value in of_runs.items() if value and self.command]
        if wrong or (self.command and self.nodes > 1):
            raise ValueError(
                f"stage {self.name} is a command, one process on one node: remove {', '.join(wrong) or 'nodes'}"
            )
        if self.run is not None and self.makes:
            raise ValueError(f"stage {self.name} is a run and makes its run folder: remove makes")
        return self


class ChainConfig(Section):
    """A chain file."""

    name: str = Field(pattern=_NAME)
    """Name of the chain."""
    stages: list[ChainStageConfig] = Field(min_length=1)
    """Stages in order."""
    notify: list[NotifyConfig] | None = None
    """Who is told of what; null leaves it to the cluster files."""


def read_chain(path: str, overrides: list[str], nodes: int | None) -> ChainConfig:
    """A chain file, or a run file as a chain of its own; every stage of an alignment is a stage of the chain.

    Args:
        overrides: keys to override in every run.
        nodes: nodes of a single run; a chain file names its own.
    """
    file = _find(path)
    values = read_yaml_file(file)
    if not isinstance(values, dict) or "stages" not in values:
        config = read_run(path, overrides)
        stage = ChainStageConfig(name=kind_of_file(path, overrides).name, run=path, nodes=nodes or 1)
        return _expanded(ChainConfig(name=config.name[:61], stages=[stage]), overrides)
    if nodes is not None:
        raise LaunchError(
            "--nodes is for a single run", got=f"{path} with its own nodes", do="change its `nodes:` keys"
        )
    return _expanded(parse(ChainConfig, values, str(file)), overrides)


def _find(path: str) -> Path:
    """A file, or the name of a shipped run or chain."""
    if not Path(path).is_file() and path in shipped.names("chains"):
        return shipped.find("chains", path)
    return shipped.find("runs", path)


def _expanded(chain: ChainConfig, overrides: list[str]) -> ChainConfig:
    """The chain with every alignment run replaced by its stages; what waits for the run waits for its last stage."""
    last: dict[str, str] = {}
    stages: list[ChainStageConfig] = []
    for stage in chain.stages:
        before = [stages[-1].name] if stages else []
        after = before if stage.after is None else [last.get(name, name) for name in stage.after]
        config = read_run(stage.run, [*stage.overrides, *overrides]) if stage.run else None
        names = config.parts if config is not None and stage.stage is None else []
        for part in names:
            # The pattern of names allows 61 characters.
            name = f"{stage.name}-{part}"[:61]
            stages.append(stage.model_copy(update={"name": name, "stage": part, "after": after}))
            after, last[stage.name] = [name], name
        if not names:
            stages.append(stage.model_copy(update={"after": after}))
    names = [stage.name for stage in stages]
    if len(set(names)) < len(names):
        raise ConfigError(f"stages of {chain.name} share a name", got=", ".join(names), do="give each its own")
    return chain.model_copy(update={"stages": stages})
