"""`megabiomed replay`: find run, checkpoint and topology, start the ranks here or join them, tell what came out."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megabiomed.checkpoint.locate import locate
from megabiomed.checkpoint.uses import TRAINED, Kind
from megabiomed.config import RunConfig, to_yaml
from megabiomed.config.topology import check_run, default_world
from megabiomed.doctor.needs import parse_topology
from megabiomed.ground.errors import ConfigError, UserError
from megabiomed.ground.files import read_json, write_atomic, write_json
from megabiomed.processes.local import run_workers, under_launcher
from megabiomed.runs import kinds
from megabiomed.runs.effective import FILE
from megabiomed.runs.environment import ENVIRONMENT
from megabiomed.runs.history import read_events
from megabiomed.runs.replay import worker
from megabiomed.runs.replay.compare import compare
from megabiomed.runs.replay.plan import Plan, attempt_of, path_from, planned
from megabiomed.runs.replay.recorded import Recorded, recorded
from megabiomed.runs.replay.told import lines_of, result_of

WORKER = "megabiomed.runs.replay.worker"


@dataclass(frozen=True)
class ReplayOptions:
    """What to compute again.

    Attributes:
        step: of the run, from 1.
        topology: as `tp=2 pp=1 dp=1 zero=3`; None: that of the run's last start.
        attempt: which one of the times that the step was computed, from 1; None: the one that an event tells of, or the last.
        from_start: from the weights that the run begins with, instead of a checkpoint.
        stage: of an alignment.
    """

    step: int
    topology: str | None = None
    attempt: int | None = None
    from_start: bool = False
    stage: str | None = None


@dataclass(frozen=True)
class Prepared:
    """A replay before its start.

    Attributes:
        config: of the run or the stage, with the topology of the replay.
        whole: the same of the run; its file is what the ranks read.
        world: processes.
        notes: for people.
        changed: whether later starts changed settings, so that equal bits are not expected.
    """

    config: RunConfig
    whole: RunConfig
    plan: Plan
    world: int
    recorded: Recorded
    notes: list[str]
    changed: bool


def replay(path: Path, options: ReplayOptions, as_json: bool) -> None:
    """Compute a step of a run again and print what came out.

    Raises:
        ConfigError: the run did not come to the step, or the topology cannot be.
        CheckpointError: no checkpoint before the step lies on its course.
    """
    folder = Path(tempfile.mkdtemp(prefix="megabiomed-replay-"))
    try:
        prepared = prepare(path, options, folder)
        write_atomic(Path(prepared.plan.config), to_yaml(prepared.whole))
        shown: AbstractContextManager[object] = redirect_stdout(sys.stderr) if as_json else nullcontext()
        with shown:
            for line in introduction(prepared, options.step) if worker.is_first() else ():
                print(line, flush=True)
            found = _compute(prepared, folder)
    except UserError:  # its message is all there is to say
        shutil.rmtree(folder)
        raise
    shutil.rmtree(folder)
    if found is not None:  # not on the other ranks of a launcher
        result = judge(prepared, found)
        for line in [json.dumps(result, indent=1)] if as_json else lines_of(result):
            print(line)
    if under_launcher():
        from megabiomed.processes import platform

        platform.leave()


def _compute(prepared: Prepared, folder: Path) -> dict[str, Any] | None:
    file, output = folder / "plan.json", folder / "found.json"
    if under_launcher():
        from megabiomed.processes import platform

        code = worker.run(prepared.plan, output)
        if code:
            platform.leave(code)
        return read_json(output) if output.is_file() else None
    write_json(file, prepared.plan.model_dump())
    run_workers(WORKER, [str(file), str(output)], prepared.world, folder)
    return read_json(output)


def prepare(path: Path, options: ReplayOptions, folder: Path) -> Prepared:
    """Everything that can be known before a rank is started.

    Args:
        folder: for files of the replay.
    """
    located = locate(path).expect(TRAINED)
    stage = options.stage or located.stage
    run = path.parent if located.kind == Kind.STAGE else path
    file = str(run / FILE)
    # A run that was moved is replayed where it is now.
    whole = kinds.read_run(file, [f"run_dir={run.absolute()}"])
    if whole.parts and stage is None:
        raise ConfigError(f"{path} has stages", do=f"add --stage with one of {', '.join(whole.parts)}")
    trained = whole if stage is None else whole.part(stage)
    attempt, steps, notes = attempt_of(trained, options.step, options.attempt)
    checkpoint, path_to = path_from(trained, attempt, steps, options.from_start)
    whole = whole.model_copy(update={"data": whole.data.model_copy(update={"global_batch_size": attempt.size})})
    ranks = _ranks(trained)
    on_topology, world = _on_topology(whole, options.topology, ranks)
    config = on_topology if stage is None else on_topology.part(stage)
    check_run(config, world)
    plan = Plan(
        config=str(folder / FILE), part=stage, checkpoint=str(checkpoint.path) if checkpoint else None,
        done=checkpoint.step if checkpoint else 0, steps=planned(trained.folder, path_to),
        same_topology=world == ranks and _alike(on_topology, whole),
    )  # fmt: skip
    record = recorded(trained.folder, options.step, attempt.first, attempt.stands)
    changes = _changes(trained, options.step)
    return Prepared(config, on_topology, plan, world, record, [*notes, *changes], bool(changes))


def _ranks(config: RunConfig) -> int:
    """Processes of the last start."""
    file = config.folder / ENVIRONMENT
    starts = read_json(file, list) if file.is_file() else []
    return int(starts[-1]["ranks"]) if starts else default_world(config.parallel, 1, config.extra_ranks)


def _on_topology(config: RunConfig, topology: str | None, ranks: int) -> tuple[RunConfig, int]:
    """The configuration on another topology, and its number of processes."""
    if topology is None:
        return config, ranks
    align = getattr(config, "align", None)
    if align is not None:  # ranks for encoders alone belong to the topology of the run
        alone = align.model_copy(update={"dedicated_encoder_ranks": 0, "encoder_ranks": None})
        config = config.model_copy(update={"align": alone})
    parallel, world = parse_topology(topology, config)
    return config.model_copy(update={"parallel": parallel}), world


def _alike(ours: RunConfig, theirs: RunConfig) -> bool:
    sizes = {"data_parallel_size": None}
    same = ours.parallel.model_copy(update=sizes) == theirs.parallel.model_copy(update=sizes)
    return same and ours.extra_ranks == theirs.extra_ranks


def _changes(config: RunConfig, step: int) -> list[str]:
    """What was changed by starts after the step: the replay has the settings of the last one."""
    events = read_events(config.folder)
    return [
        f"changed at step {event['step']}, after step {step}: {line}" for event in events
        if event["event"] == "resume" and event["step"] >= step for line in event.get("changed", ())
    ]  # fmt: skip


def introduction(prepared: Prepared, step: int) -> list[str]:
    """Lines before the ranks start."""
    plan, parallel = prepared.plan, prepared.config.parallel
    begins = f"checkpoint {plan.checkpoint}" if plan.checkpoint else "the weights that the run begins with"
    more = len(plan.steps) - 1
    engine = parallel.engine if parallel.engine == "fsdp2" else f"zero {parallel.zero_stage}"
    return [
        f"replay: step {step} of {prepared.config.folder}, from {begins}"
        + (f" (step {plan.done}) and through {more} steps before it" if more else f" (step {plan.done})"),
        f"topology: {prepared.world} processes, tensor {parallel.tensor_parallel_size} x pipeline "
        f"{parallel.pipeline_parallel_size}, {engine}"
        + (" (that of the run)" if plan.same_topology else " (not that of the run)"),
        *(f"note: {line}" for line in prepared.notes),
    ]  # fmt: skip


def judge(prepared: Prepared, found: dict[str, Any]) -> dict[str, Any]:
    """What was found beside what was recorded, as one JSON object."""
    from megabiomed.model.registry import architecture_of

    config, notes = prepared.config, list(prepared.notes)
    file = config.folder / ENVIRONMENT
    starts = read_json(file, list) if file.is_file() else []
    if starts and starts[-1].get("device") != found["device"]:
        notes.append(f"the run used another device: {starts[-1].get('device')}, here {found['device']}")
    exact = prepared.plan.same_topology and not prepared.changed and len(notes) == len(prepared.notes)
    order = list(architecture_of(config.model).trained_shapes(config.lora))
    comparison = compare(found, prepared.recorded, order, config.train.precision, exact)
    return result_of(prepared.plan, prepared.recorded, comparison, found, order, notes, prepared.world)
