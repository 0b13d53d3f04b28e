"""A stage that was checked against its cluster before anything is submitted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from glob import glob
from pathlib import Path

from megabiomed.config import RunConfig
from megabiomed.config.cluster import ClusterConfig, load_cluster
from megabiomed.ground.secrets import masked_by_form
from megabiomed.launch import records
from megabiomed.launch.chain import ChainStageConfig, ComponentConfig, read_chain
from megabiomed.launch.sizes import with_sizes
from megabiomed.launch.stage_checks import check_stage
from megabiomed.runs.kinds import WORKER, kind_of_file, part_run
from megabiomed.runs.tracking.credentials import handed_over


@dataclass(frozen=True)
class ChainStage:
    """One job.

    Attributes:
        kind: `pretrain`, `align`, ... or `command`.
        folder: run folder, absolute.
        config: the effective configuration, with an absolute run folder; None for a command.
        module: module that every rank runs.
        arguments: its arguments after the configuration.
        typed: words after `megabiomed` that do the same without SLURM.
        after: names of the stages that it waits for.
        before: run folders of these.
        sizes: counts of `nodes` with which a start may run, the asked one first; one or none: it never shrinks.
    """

    chain: str
    name: str
    kind: str
    folder: Path
    config: RunConfig | None
    module: str
    arguments: tuple[str, ...]
    typed: tuple[str, ...]
    makes: tuple[Path, ...]
    cluster: ClusterConfig
    nodes: int
    time: str
    after: tuple[str, ...]
    sbatch: dict[str, str | int | bool]
    components: tuple[ComponentConfig, ...] = ()
    before: tuple[Path, ...] = ()
    sizes: tuple[int, ...] = ()

    @property
    def ranks_per_node(self) -> int:
        """Tasks on each of `nodes`; a command is one."""
        return 1 if self.kind == records.COMMAND else self.cluster.ranks_per_node

    @property
    def cpus_per_task(self) -> int:
        """Cores of a task; a command takes those of all ranks of a node."""
        return self.cluster.cpus_per_task * (self.cluster.ranks_per_node if self.kind == records.COMMAND else 1)

    def cpus_of(self, part: ComponentConfig) -> int:
        """Cores of a task on nodes of another kind."""
        return part.cpus_per_task or self.cpus_per_task

    @property
    def ranks(self) -> int:
        """Ranks of the run."""
        return self.nodes * self.ranks_per_node + sum(part.nodes * part.ranks_per_node for part in self.components)

    @property
    def resources(self) -> dict[str, int]:
        """Nodes, GPUs and cores of a start, of all kinds of nodes together."""
        cpus = self.nodes * self.ranks_per_node * self.cpus_per_task
        return {
            "nodes": self.nodes + sum(part.nodes for part in self.components),
            "gpus": self.nodes * self.cluster.gpus_per_node
            + sum(part.nodes * part.gpus_per_node for part in self.components),
            "cpus": cpus + sum(part.nodes * part.ranks_per_node * self.cpus_of(part) for part in self.components),
        }

    @property
    def controls(self) -> list[Path]:
        """Folders whose `control/` the stage obeys: its own, and that of the run that it is a part of."""
        whole = [self.config.folder] if self.config is not None and self.config.folder != self.folder else []
        return [self.folder, *whole]

    @property
    def part(self) -> str | None:
        """The part of the run that the stage does; None: all of it, or a command."""
        return self.arguments[0] if self.arguments and self.kind != records.COMMAND else None

    @property
    def secrets(self) -> dict[str, str]:
        """Variables that the job gets from the environment of its submission, because no file may hold them."""
        return self.cluster.secrets | (handed_over(self.config) if self.config is not None else {})

    @property
    def words(self) -> list[str]:
        """What follows `python -m` on every rank."""
        stored = [] if self.kind == records.COMMAND else [str(self.folder / records.SLURM / "config.yaml")]
        return [self.module, *stored, *self.arguments]


def load_stages(
    path: str,
    cluster: ClusterConfig,
    overrides: list[str],
    nodes: int | None,
    check_command: Callable[[list[str]], object] | None = None,
) -> list[ChainStage]:
    """Read a chain file, or a run file as a chain of its own, and check every stage before anything is submitted.

    Args:
        overrides: keys to override in every run.
        nodes: nodes of a single run; a chain file has its own.
        check_command: raises ConfigError for words that are no command of megabiomed.

    Raises:
        ConfigError: anything in the files that is wrong; TopologyError: nodes that do not fit the topology.
    """
    chain = read_chain(path, overrides, nodes)
    stages: list[ChainStage] = []
    for config in chain.stages:
        profile = load_cluster(config.cluster) if config.cluster else cluster
        if chain.notify is not None:
            profile = profile.model_copy(update={"notify": chain.notify})
        if config.command:
            if check_command is not None:
                check_command(config.command)
            stage = _command(chain.name, config, profile)
        else:
            stage = _training(chain.name, config, profile, overrides)
        check_stage(stage, stages)
        before = tuple(other.folder for other in stages if other.name in stage.after)
        stages.append(with_sizes(replace(stage, before=before)))
    return stages


def _training(chain: str, config: ChainStageConfig, cluster: ClusterConfig, overrides: list[str]) -> ChainStage:
    assert config.run is not None
    changes = [*config.overrides, *overrides]
    kind = kind_of_file(config.run, changes)
    run = kind.read(config.run, changes)
    # Absolute: the record is read by commands that are typed elsewhere.
    run = run.model_copy(update={"run_dir": run.folder.absolute()})
    part = [config.stage] if config.stage else []
    file = Path(config.run).absolute() if Path(config.run).is_file() else config.run
    typed = [
        kind.name,
        str(file),
        *(masked_by_form(change) for change in changes if not change.startswith("run_dir=")),
        f"run_dir={run.folder}",
        *(["--stage", *part] if part else []),
    ]
    return ChainStage(
        chain=chain, name=config.name, kind=kind.name, folder=part_run(run, config.stage).folder, config=run,
        module=WORKER, arguments=tuple(part), typed=tuple(typed), makes=(), cluster=cluster, nodes=config.nodes,
        time=config.time or cluster.time, after=tuple(config.after or ()), sbatch=cluster.sbatch | config.sbatch,
        components=tuple(config.components),
    )  # fmt: skip


def _command(chain: str, config: ChainStageConfig, cluster: ClusterConfig) -> ChainStage:
    # No shell will see the words: patterns of existing files become their names here.
    words = tuple(found for word in config.command for found in (sorted(glob(word)) if "*" in word else ()) or [word])
    return ChainStage(
        chain=chain, name=config.name, kind=records.COMMAND, folder=(Path("runs") / f"{chain}-{config.name}").absolute(),
        config=None, module="megabiomed.cli", arguments=words, typed=words, makes=tuple(config.makes), cluster=cluster,
        nodes=1, time=config.time or cluster.time, after=tuple(config.after or ()),
        sbatch=cluster.sbatch | config.sbatch,
    )  # fmt: skip
