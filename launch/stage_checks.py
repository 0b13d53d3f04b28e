"""What is checked of a stage before anything is submitted: order, times, words, kinds of nodes, files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from megabiomed.config.cluster import seconds_of
from megabiomed.config.container import in_image
from megabiomed.config.paths import read_paths
from megabiomed.config.topology import check_run
from megabiomed.ground.errors import ConfigError, TopologyError
from megabiomed.ground.places import is_below, same_place
from megabiomed.ground.secrets import masked_by_form
from megabiomed.launch import records
from megabiomed.launch.stage_in import wanted
from megabiomed.runs.kinds import part_run

if TYPE_CHECKING:
    from megabiomed.launch.stage import ChainStage


def check_stage(stage: ChainStage, before: list[ChainStage]) -> None:
    """Refuse what cannot run; `before` are the stages that precede it in the chain.

    Raises:
        ConfigError: times, files or options; TopologyError: nodes that do not fit the topology.
    """
    known = [other.name for other in before]
    for name in stage.after:
        if name not in known:
            raise ConfigError(f"stage {stage.name} waits for a stage that does not come before it", got=repr(name))
    if any(same_place(other.folder, stage.folder) for other in before):
        raise ConfigError(f"two stages of {stage.chain} share a run folder", got=stage.folder, do="set run_dir or name")
    _check_words(stage)
    if seconds_of(stage.time) <= stage.cluster.grace_seconds:
        raise ConfigError(
            f"the time limit of stage {stage.name} leaves no time to train",
            got=f"time {stage.time}, grace_seconds {stage.cluster.grace_seconds}",
            do="raise time, or lower grace_seconds",
        )
    if stage.config is not None:
        check_run(part_run(stage.config, stage.part), stage.ranks)
        _check_components(stage, stage.config.extra_ranks)
        _check_order(stage, before)
    _check_files(stage, before)
    wanted.check(stage)


def _check_words(stage: ChainStage) -> None:
    """Refuse credentials in words that the batch script and its record hold for everybody to read."""
    flags = [f"{name}={value}" for name, value in stage.sbatch.items()]
    for word in [*stage.typed, *flags, *stage.cluster.srun, *stage.cluster.wrap]:
        if masked_by_form(word) != word:
            raise ConfigError(
                f"stage {stage.name} names a password, which its batch script would store",
                got=masked_by_form(word),
                do="leave it out and put it under `environment` of the cluster file, or export it before you submit",
            )
    exported = str(stage.sbatch.get("export", "ALL")).split(",")
    if stage.secrets and "ALL" not in exported:
        raise ConfigError(
            f"stage {stage.name} would not get the credentials that it needs",
            got=f"{', '.join(stage.secrets)} with --export={','.join(exported)}",
            expected="--export=ALL, as the job gets them from the environment of sbatch",
            do="leave `export` out of the sbatch options",
        )


def _check_components(stage: ChainStage, encoder_ranks: int) -> None:
    """Ranks with and without GPUs cannot meet; dedicated encoder ranks are the last ones, so they are on the last nodes."""
    gpus = stage.cluster.gpus_per_node > 0
    unlike = [part for part in stage.components if (part.gpus_per_node > 0) != gpus]
    if unlike:
        raise ConfigError(
            f"stage {stage.name} has ranks with and without GPUs, which cannot exchange tensors",
            got=f"gpus_per_node {stage.cluster.gpus_per_node} of the cluster, {unlike[0].gpus_per_node} of a component",
            do="set the component's gpus_per_node, or leave the component out",
        )
    ends = list(accumulate(part.nodes * part.ranks_per_node for part in reversed(stage.components)))
    if encoder_ranks and ends and encoder_ranks not in ends:
        raise TopologyError(
            f"the encoder ranks of stage {stage.name} would share nodes of one kind with the language model",
            got=f"align.dedicated_encoder_ranks {encoder_ranks}, {ends[0]} ranks on the last component",
            do=f"set align.dedicated_encoder_ranks={ends[0]}, or change the component",
        )


def _check_order(stage: ChainStage, before: list[ChainStage]) -> None:
    """A part of a run starts from the part before it, which is in the chain or finished already."""
    assert stage.config is not None
    names = stage.config.parts
    at = names.index(stage.part) if stage.part else 0
    if at == 0:
        return
    earlier = stage.config.part(names[at - 1])
    finished = records.committed_step(earlier.folder) >= (earlier.train.steps or 0)
    if not finished and not any(same_place(earlier.folder, other.folder) for other in _ancestors(stage, before)):
        raise ConfigError(
            f"stage {stage.name} starts from {names[at - 1]}, which is not finished and not among those it waits for",
            got=f"after: {', '.join(stage.after) or 'none'}",
            do=f"put `stage: {names[at - 1]}` in front of it",
        )


def _ancestors(stage: ChainStage, before: list[ChainStage]) -> list[ChainStage]:
    """All stages that are finished when this one begins."""
    waited, found = set(stage.after), []
    for other in reversed(before):
        if other.name in waited:
            found.append(other)
            waited |= set(other.after)
    return found


def _check_files(stage: ChainStage, before: list[ChainStage]) -> None:
    """What a stage reads exists, or is made by a stage that it waits for; what it writes can be written."""
    made = [path for other in _ancestors(stage, before) for path in (*other.controls, *other.makes)]
    for key, path in read_paths(stage.config) if stage.config is not None else ():
        if not path.exists() and not any(is_below(path, folder) for folder in made):
            raise ConfigError(
                f"{key} of stage {stage.name} does not exist",
                got=path,
                do="build it first, or correct the path (an earlier stage of the chain may make it too)",
            )
    for folder in (stage.folder, *(path.absolute().parent for path in stage.makes)):
        # The folder itself may not exist yet: its nearest parent that does decides whether it can be made.
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            raise ConfigError(
                f"stage {stage.name} cannot write", got=folder, do=f"make {there} writable, or choose another run_dir"
            )
    _check_shared(stage)


def _check_shared(stage: ChainStage) -> None:
    """Refuse paths that the nodes cannot see, where the cluster says which they can."""
    roots = stage.cluster.shared_roots
    for key, path in _given(stage) if roots else ():
        if not any(is_below(path, root) for root in roots):
            raise ConfigError(
                f"the nodes would not see {key} of stage {stage.name}",
                got=path,
                expected=f"below {', '.join(map(str, roots))}",
                do="move it, or add its file system to shared_roots of the cluster file",
            )


def _given(stage: ChainStage) -> Iterator[tuple[str, Path]]:
    yield "the run folder", stage.folder
    inside = in_image(stage.cluster)  # then `python` is the image's
    seen = {"host_python": stage.cluster.host_python, "python": None if inside else stage.cluster.python}
    yield from ((key, path) for key, path in seen.items() if path is not None)
    yield from (("makes", path) for path in stage.makes)
    if stage.config is not None:
        yield from read_paths(stage.config)
