"""Which stages of a chain have something to do: one that runs again takes along what was made from its earlier result."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from megabiomed.config import to_yaml
from megabiomed.config.yaml_text import read_yaml
from megabiomed.ground.errors import ConfigError
from megabiomed.ground.json_lines import read_objects
from megabiomed.ground.places import same_place
from megabiomed.launch import records
from megabiomed.launch.stage import ChainStage
from megabiomed.runs.kinds import part_run

# Sections and keys that change how a run is done, and not what comes out of it.
_HOW = ("name", "kind", "run_dir", "parallel", "kernels", "checkpoint", "tracking", "profile")
_HOW_KEYS = ("micro_batch_size", "num_workers", "prefetch")
_LENGTH = ("train.steps", "train.epochs")


def unfinished(stages: Iterable[ChainStage]) -> list[ChainStage]:
    """Stages that have something to do, in order.

    Raises:
        ConfigError: a finished training would have to begin anew: its configuration changed, or what it started from.
    """
    todo: list[ChainStage] = []
    for stage in stages:
        if _has_work(stage, [other.folder for other in todo]):
            todo.append(stage)
    return todo


def _has_work(stage: ChainStage, again: list[Path]) -> bool:
    if not records.is_finished(stage.folder):
        return True
    cause = outdated(stage.folder, stage.before, again)
    if stage.config is None:
        return cause is not None or records.read_job(stage.folder).get("words") != list(stage.typed)
    changed = list(_changes(stage))
    longer = [line for line in changed if line.startswith(_LENGTH)]
    other = [line for line in changed if line not in longer]
    if cause is not None or (other and not longer):
        raise ConfigError(
            f"stage {stage.name} is finished already in {stage.folder}, and would not be trained again",
            got=cause or "; ".join(other),
            do="give it another run_dir (or name), or move that folder away",
        )
    return bool(longer)


def outdated(run: Path, before: Iterable[Path], again: Collection[Path]) -> str | None:
    """Which stage before a finished one is not any more what that one was made from; None when all are.

    Args:
        before: run folders of the stages that it waits for.
        again: those that run now. One that never finished before is no reason: nothing was made from it.
    """
    inputs = records.last_begin(run).get(records.INPUTS, {})
    for folder in before:
        used = next((claim for name, claim in inputs.items() if same_place(Path(name), folder)), None)
        if any(same_place(folder, other) for other in again) and _was_finished(folder):
            return f"{folder} runs again"
        if used is not None and used != records.finish(folder):
            return f"{folder} ran again since"
    return None


def _was_finished(run: Path) -> bool:
    return any(event.get("event") == "finished" for event in read_objects(run / records.EVENTS))


def _changes(stage: ChainStage) -> Iterator[str]:
    """`key: before -> now` of what a finished run would do otherwise; a run without a stored configuration has its length."""
    # Imported where it is needed: it brings torch, for which a plan should not wait.
    from megabiomed.runs.changes import differences

    assert stage.config is not None
    wanted, stored = part_run(stage.config, stage.part), stage.folder / "config.yaml"
    before = read_yaml(stored.read_text(), str(stored)) if stored.is_file() else None
    if not isinstance(before, dict):
        yield f"{_LENGTH[0]}: unknown"
        return
    for key, was, now in differences(before, read_yaml(to_yaml(wanted), wanted.name), wanted):
        if not (_is_how(key) or _is_same_path(was, now)):
            yield f"{key}: {was} -> {now}"


def _is_how(key: str) -> bool:
    from megabiomed.runs.changes import SILENT

    words = key.split(".")
    return key != "checkpoint.resume" and (words[0] in _HOW or words[-1] in (*_HOW_KEYS, *SILENT))


def _is_same_path(was: object, now: object) -> bool:
    return isinstance(was, str) and isinstance(now, str) and Path(now).exists() and same_place(Path(was), Path(now))
