"""A chain of stages: each a training run with its own nodes and time, each waiting for those before it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from pydantic import Field, PositiveInt

from megabiomed import configs
from megabiomed.config import RunConfig, load_config
from megabiomed.config.align import AlignRunConfig
from megabiomed.config.base import Section, parse
from megabiomed.config.load import read_yaml
from megabiomed.config.topology import check_run
from megabiomed.errors import ConfigError, LaunchError
from megabiomed.launch.cluster import ClusterConfig, Flags, Time, seconds_of


class ComponentConfig(Section):
    """More nodes of another kind for the same run: SLURM starts them together (a heterogeneous job)."""

    nodes: PositiveInt = 1
    """Nodes."""
    ranks_per_node: PositiveInt = 1
    """Ranks on each."""
    gpus_per_node: int = Field(0, ge=0)
    """GPUs of each that the job takes."""
    sbatch: Flags = Field(default_factory=dict)
    """sbatch options of these nodes: `partition: other`."""


class StageConfig(Section):
    """One stage of a chain."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,40}$")
    """Name of the stage."""
    run: str
    """Run file, or the name of one in configs/runs."""
    overrides: list[str] = Field(default_factory=list)
    """Keys of the run to override, as on the command line."""
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


class ChainConfig(Section):
    """A chain file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,60}$")
    """Name of the chain."""
    stages: list[StageConfig] = Field(min_length=1)
    """Stages in order."""


@dataclass(frozen=True)
class Stage:
    """A stage that was checked against its cluster.

    Attributes:
        config: the effective run configuration, with an absolute run folder.
        after: names of the stages that it waits for.
    """

    chain: str
    name: str
    config: RunConfig
    nodes: int
    time: str
    after: tuple[str, ...]
    sbatch: dict[str, str | int | bool]
    components: tuple[ComponentConfig, ...] = ()

    @property
    def worker(self) -> str:
        """Module that each rank runs."""
        return f"megabiomed.{'align' if isinstance(self.config, AlignRunConfig) else 'train'}.worker"

    def ranks(self, cluster: ClusterConfig) -> int:
        """Ranks of the run."""
        return self.nodes * cluster.ranks_per_node + sum(part.nodes * part.ranks_per_node for part in self.components)

    @property
    def folder(self) -> Path:
        """The run folder, absolute."""
        return self.config.folder


def load_stages(path: str, cluster: ClusterConfig, overrides: list[str], nodes: int | None) -> list[Stage]:
    """Read a chain file, or a run file as a chain of one, and check every stage before anything is submitted.

    Args:
        overrides: keys to override in every stage.
        nodes: nodes of a single run; a chain file has its own.

    Raises:
        ConfigError: anything in the files that is wrong; TopologyError: nodes that do not fit the topology.
    """
    chain = _read(path, overrides, nodes)
    stages: list[Stage] = []
    for stage in chain.stages:
        config = load_config(stage.run, [*stage.overrides, *overrides], _kind(stage.run))
        config = config.model_copy(update={"run_dir": config.folder.absolute()})
        before = (stages[-1].name,) if stages else ()
        ready = Stage(
            chain=chain.name,
            name=stage.name,
            config=config,
            nodes=stage.nodes,
            time=stage.time or cluster.time,
            after=before if stage.after is None else tuple(stage.after),
            sbatch=cluster.sbatch | stage.sbatch,
            components=tuple(stage.components),
        )
        _check(ready, [known.name for known in stages], cluster)
        if any(known.folder == ready.folder for known in stages):
            raise ConfigError(
                f"two stages of {chain.name} share a run folder", got=ready.folder, do="set run_dir or name"
            )
        stages.append(ready)
    return stages


def _read(path: str, overrides: list[str], nodes: int | None) -> ChainConfig:
    file = configs.find("runs", path)
    values = read_yaml(file.read_text(), str(file))
    if not isinstance(values, dict) or "stages" not in values:
        config = load_config(path, overrides, _kind(path))
        return ChainConfig(name=config.name[:61], stages=[StageConfig(name=_word(config), run=path, nodes=nodes or 1)])
    if nodes is not None:
        raise LaunchError(
            "--nodes is for a single run", got=f"{path} with its own nodes", do="change its `nodes:` keys"
        )
    chain = cast(ChainConfig, parse(ChainConfig, values, str(file)))
    names = [stage.name for stage in chain.stages]
    if len(set(names)) < len(names):
        raise ConfigError(f"stages of {file} share a name", got=", ".join(names), do="give each its own")
    return chain


def _word(config: RunConfig) -> str:
    return "align" if isinstance(config, AlignRunConfig) else "pretrain"


def _kind(run: str) -> type[RunConfig]:
    """The class of a run file: one with a section `align` is an alignment run."""
    values = read_yaml(configs.find("runs", run).read_text(), run)
    return AlignRunConfig if isinstance(values, dict) and "align" in values else RunConfig


def _check(stage: Stage, known: list[str], cluster: ClusterConfig) -> None:
    check_run(stage.config, stage.ranks(cluster))
    for name in stage.after:
        if name not in known:
            raise ConfigError(f"stage {stage.name} waits for a stage that does not come before it", got=repr(name))
    if seconds_of(stage.time) <= cluster.grace_seconds:
        raise ConfigError(
            f"the time limit of stage {stage.name} leaves no time to train",
            got=f"time {stage.time}, grace_seconds {cluster.grace_seconds}",
            do="raise time, or lower grace_seconds",
        )
    sources = [source.path for source in stage.config.data.train]
    if isinstance(stage.config, AlignRunConfig):
        sources += [source.path for source in stage.config.align.train]
    for path in sources:
        if not path.exists():
            raise ConfigError(f"stage {stage.name} has no data", got=f"{path} does not exist", do="build it first")
    _check_shared(stage, cluster)


def _check_shared(stage: Stage, cluster: ClusterConfig) -> None:
    """Refuse paths that the nodes cannot see, where the cluster says which they can."""
    data = stage.config.data
    given = [stage.folder, *(source.path for source in data.train), data.validation, data.tokenizer]
    given += [Path(stage.config.model.init_from) if stage.config.model.init_from else None, cluster.python]
    roots = [root.resolve() for root in cluster.shared_roots]
    for path in given if roots else ():
        if path and not any(path.resolve().is_relative_to(root) for root in roots):
            raise ConfigError(
                f"the nodes would not see a path of stage {stage.name}",
                got=path,
                expected=f"below {', '.join(map(str, roots))}",
                do="move it, or add its file system to shared_roots of the cluster file",
            )
