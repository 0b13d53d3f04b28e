"""What a stage wants on its nodes' own storage, known when it is submitted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from megabiomed.config.cluster import seconds_of
from megabiomed.config.container import in_image
from megabiomed.config.paths import read_paths
from megabiomed.ground.errors import ConfigError, FileError
from megabiomed.ground.places import is_below
from megabiomed.launch.stage_in.figures import size
from megabiomed.launch.stage_in.sources import Source, source_of
from megabiomed.runs.kinds import FINETUNE, PRETRAIN, kind_of_config, part_run

if TYPE_CHECKING:
    from megabiomed.launch.stage import ChainStage

_STARTS = ("finetune.start_from", "align.language_model", "model.init_from")
_NEVER = ("checkpoint.resume", "tokenizer")
"""What a start reads once, and little of."""


class Read(NamedTuple):
    """A path that a stage reads."""

    group: str
    key: str
    path: Path


def reads(stage: ChainStage) -> Iterator[Read]:
    """What the cluster file wants to be copied, each path once; whether it is something to copy shows when it exists."""
    wanted = stage.cluster.stage_in
    if wanted is None or stage.config is None:
        return
    seen = set()
    for key, path in read_paths(part_run(stage.config, stage.part)):
        group = _group(key)
        if group in wanted.what and os.path.abspath(path) not in seen:
            seen.add(os.path.abspath(path))
            yield Read(group, key, Path(os.path.abspath(path)))


def _group(key: str) -> str | None:
    if key.endswith(_NEVER):
        return None
    if key in _STARTS:
        return "init_from"
    return "encoders" if key.endswith("init_from") else "data"


def record(stage: ChainStage) -> dict[str, Any] | None:
    """For the nodes, which read it without the configuration's types; None where nothing is to be copied."""
    wanted, found = stage.cluster.stage_in, list(reads(stage))
    if wanted is None or not found:
        return None
    return {
        "folder": wanted.folder,
        "max_bytes": wanted.max_bytes,
        # Copying must not take all of a start, or the ranks would never train.
        "minutes": min(wanted.minutes, (seconds_of(stage.time) - stage.cluster.grace_seconds) / 120),
        "image": in_image(stage.cluster),
        "reads": [[read.group, read.key, str(read.path)] for read in found],
        "until_saved": _until_saved(stage, found),
    }


def _until_saved(stage: ChainStage, found: list[Read]) -> list[str]:
    """Keys that no start reads any more once the run has a checkpoint of its own, because it holds all of the model.

    None of adapters, whose frozen model is in no checkpoint; none of an alignment, which opens and hashes it at each start;
    none of a kind of run from outside.
    """
    assert stage.config is not None
    whole = kind_of_config(stage.config) in (PRETRAIN, FINETUNE) and stage.config.lora is None
    return [read.key for read in found if whole and read.group == "init_from"]


def measured(stage: ChainStage) -> tuple[dict[str, Source], list[str]]:
    """What would be copied by key, and the keys of what is not there yet.

    Raises:
        FileError: a store that is damaged.
    """
    found, absent = {}, []
    for read in reads(stage):
        if not read.path.exists():
            absent.append(read.key)
        elif (source := source_of(read.path, read.group)) is not None:
            found[read.key] = source
    return found, absent


def check(stage: ChainStage) -> None:
    """Refuse with a `ConfigError` a folder that all nodes share, and one that may not hold what a node needs."""
    wanted = stage.cluster.stage_in
    if wanted is None or stage.config is None:
        return
    shared = [root for root in stage.cluster.shared_roots if is_below(Path(os.path.expandvars(wanted.folder)), root)]
    if shared:
        raise ConfigError(
            "stage_in.folder is on storage that all nodes share", got=f"{wanted.folder}, below {shared[0]}",
            expected="storage of the node", do="name another folder, or leave stage_in out",
        )  # fmt: skip
    try:
        needed = sum(source.bytes for source in measured(stage)[0].values())
    except (FileError, OSError):  # the run itself says what is wrong with it
        return
    if wanted.max_bytes is not None and needed > wanted.max_bytes:
        raise ConfigError(
            f"stage_in.max_size is less than what stage {stage.name} reads",
            got=f"{wanted.max_size} ({wanted.max_bytes:,} bytes)", expected=f"at least {needed:,} bytes ({size(needed)})",
            do="raise max_size, or leave groups out of stage_in.what",
        )  # fmt: skip


def plan(stage: ChainStage) -> list[str]:
    """Lines for an operator who decides whether to submit a stage."""
    wanted = stage.cluster.stage_in
    if wanted is None:
        return []
    found, absent = measured(stage)
    parts = [f"{key} {size(source.bytes)}" for key, source in found.items()]
    total = size(sum(source.bytes for source in found.values()))
    most = f", at most {wanted.max_size}" if wanted.max_size else ""
    lines = [f"  stage in: {total} on each node to {wanted.folder}{most}: {', '.join(parts)}"] if parts else []
    lines += [f"  stage in, when an earlier stage has made it: {', '.join(absent)}"] if absent else []
    return lines or ["  stage in: nothing that this stage reads is copied"]
