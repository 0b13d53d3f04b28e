"""Real runs of a small model: on every topology against one process, and killed, resumed, signalled against undisturbed."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from megabiomed.config import to_yaml
from megabiomed.ground.files import write_atomic
from megabiomed.ground.json_lines import read_objects
from megabiomed.launch.selftest.plan import (
    BOUND,
    HOW,
    LONG,
    NORM_BOUND,
    ONE,
    STEPS,
    VOCABULARY,
    WAITS,
    WHOLE,
    Shape,
    Topology,
    configuration,
    refusal,
    resumed,
    topologies,
)
from megabiomed.launch.selftest.results import Figure, Result
from megabiomed.launch.selftest.steps import Site, run_step

_START_S = 300.0
_RUN_S = 30.0
"""Seconds that a start may take, and each run in it."""
_SEVERAL = "megabiomed.launch.selftest.several"
_PAPERS = 60


def corpus(site: Site) -> Iterator[Result]:
    """Papers of the package's own, through the public commands."""
    folder = site.folder("corpus")
    records = folder / "records.jsonl.gz"
    made = ["megabiomed.cli", "corpus", "generate", records, "--papers", _PAPERS]
    built = [
        "megabiomed.cli", "corpus", "build", records, "--output", folder / "built", "--vocab-size", VOCABULARY,
        "--workers", 1,
    ]  # fmt: skip
    why = run_step(site.one, "corpus", made, _START_S) or run_step(site.one, "corpus", built, _START_S)
    yield Result.of("corpus", why)


def store(site: Site) -> Path:
    """The store that `corpus` made."""
    return site.folder("corpus") / "built" / "train"


def reference(site: Site) -> Iterator[Result]:
    """The small model in one process. Its batch is that of all ranks."""
    _write(site, site.shape, Topology(ONE, {"zero_stage": 0}))
    why = run_step(site.one, ONE, [_SEVERAL, _file(site, ONE)], _START_S + _RUN_S)
    yield Result.of(ONE, why or _unfinished(site, ONE))


def parity(site: Site) -> Iterator[Result]:
    """Every topology that fits, in as few starts as failures allow."""
    every = topologies(site.shape)
    refusals = {each.name: refusal(site.shape, each) for each in every}
    left = [each.name for each in every if refusals[each.name] is None] + [WHOLE]
    for each in every:
        _write(site, site.shape, each)
    whole = resumed(site.shape)
    _write(site, site.shape, Topology(WHOLE, whole.parallel), LONG)
    failed: dict[str, str] = {}
    while left:
        words = [_SEVERAL, *(_file(site, name) for name in left)]
        why = run_step(site, "parity", words, _START_S + _RUN_S * len(left))
        left = [name for name in left if _unfinished(site, name)]
        if left:
            # The first one that did not finish ended the others with it; they get a start of their own.
            failed[left[0]] = why or str(_unfinished(site, left[0]))
            left = left[1:]
    for each in every:
        refused = refusals[each.name]
        yield Result.skip(each.name, refused) if refused else _compared(site, each, failed.get(each.name))


def _compared(site: Site, topology: Topology, why: str | None) -> Result:
    if why is not None:
        return Result.of(topology.name, why)
    ours, wanted = curve(site.folder(topology.name)), curve(site.folder(ONE))
    if len(wanted) != STEPS:
        return Result.skip(topology.name, "it finished, and there are no losses of one process to compare with")
    return compare(topology, ours, wanted)


def compare(topology: Topology, ours: dict[int, tuple[float, float]], wanted: dict[int, tuple[float, float]]) -> Result:
    """The result of a topology from its curve and that of one process: step -> (loss, gradient norm)."""
    name, precision = topology.name, topology.precision
    if ours.keys() != wanted.keys():
        return Result.of(name, f"steps {sorted(ours)} of {sorted(wanted)} were recorded")
    loss = {step: _apart(ours[step][0], wanted[step][0]) for step in wanted}
    # In bf16 the paths part with the first update.
    judged = [min(wanted)] if precision == "bf16" else list(wanted)
    norm = {step: _apart(ours[step][1], wanted[step][1]) for step in judged}
    figures = [Figure("largest difference of a loss", max(loss.values()), "relative")]
    figures += [Figure("of a gradient norm", max(norm.values()), "relative")]
    for what, apart, bound in (("loss", loss, BOUND[precision]), ("gradient norm", norm, NORM_BOUND[precision])):
        wrong = [step for step, value in apart.items() if not value <= bound]
        if wrong:
            why = f"{what} of step {wrong[0]} is {apart[wrong[0]]:.2g} from that of one process, relative: at most {bound:g}"
            return Result.of(name, why, figures)
    return Result.of(name, None, figures)


def _apart(ours: float, wanted: float) -> float:
    return abs(ours - wanted) / abs(wanted)


def resume(site: Site) -> Iterator[Result]:
    """Kill a rank, resume; signal the ranks, resume; compare with the run that nobody disturbed."""
    names = ("kill and resume", "signal")
    if missing := _unfinished(site, WHOLE):
        yield from (Result.skip(name, f"the undisturbed run is missing: {missing}") for name in names)
        return
    name = "resume"
    _write(site, site.shape, Topology(name, resumed(site.shape).parallel), LONG)
    folder = site.folder(name)
    killed = _start(site, name, "kill")
    if killed is None or _events(folder, "finished"):
        yield Result.of(names[0], "the run went on although its last rank was killed")
        yield Result.skip(names[1], "the run is over")
        return
    second = _start(site, name, "signal", _signals_when_asked(folder))
    stopped = [event.get("step") for event in _events(folder, "stopped")]
    third = _start(site, name, "") if not _events(folder, "finished") else None
    resumes = [event.get("step", 0) for event in _events(folder, "resume")]
    figures = [Figure("resumed at step", float(step), "") for step in resumes[:1]]
    yield Result.of(names[0], _difference(site, folder, resumes, second or third), figures)
    left = (
        None
        if stopped
        else second or f"SIGUSR1 of srun did not reach the ranks: no event `stopped`; logs: {folder / 'logs'}"
    )
    yield Result.of(names[1], left, [Figure("saved and left after step", float(step or 0), "") for step in stopped])


def _start(
    site: Site, name: str, how: str, poll: Callable[[subprocess.Popen[Any]], None] = lambda process: None
) -> str | None:
    words = [_SEVERAL, _file(site, name)]
    return run_step(site, name, words, _START_S + _RUN_S, {HOW: how}, poll)


def _signals_when_asked(folder: Path) -> Callable[[subprocess.Popen[Any]], None]:
    """Sends srun the signal of the batch script, once, when the ranks wait for it."""
    sent: list[int] = []

    def poll(process: subprocess.Popen[Any]) -> None:
        if not sent and WAITS in os.listdir(folder):
            sent.append(process.pid)
            process.send_signal(signal.SIGUSR1)

    return poll


def _difference(site: Site, folder: Path, resumes: list[int], why: str | None) -> str | None:
    """In what an interrupted run differs from the undisturbed one; None: in nothing, to the bit."""
    ended = _events(folder, "finished")
    if not ended:
        return why or "the run did not finish"
    if not resumes or not resumes[0]:
        return "the start after the kill found no checkpoint"
    whole = site.folder(WHOLE)
    ours, wanted = curve(folder), curve(whole)
    if ours != wanted:
        step = next((step for step in wanted if ours.get(step) != wanted[step]), 0)
        return f"step {step} has loss and gradient norm {ours.get(step)}, undisturbed {wanted.get(step)}"
    if ended[-1].get("ids_hash") != _events(whole, "finished")[-1].get("ids_hash"):
        return "the hash of the consumed ids is another one"
    return None


def curve(folder: Path) -> dict[int, tuple[float, float]]:
    """step -> (loss, gradient norm) as a run recorded it last."""
    records = (record for record in read_objects(folder / "metrics.jsonl") if "train/loss" in record)
    return {int(record["step"]): (_number(record, "loss"), _number(record, "grad_norm")) for record in records}


def _number(record: dict[str, Any], key: str) -> float:
    value = record.get(f"train/{key}")
    return float(value) if isinstance(value, int | float) else float("nan")


def _events(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_objects(folder / "events.jsonl") if event.get("event") == kind]


def _unfinished(site: Site, name: str) -> str | None:
    """Why a run is not finished; None when it is."""
    folder = site.folder(name)
    if _events(folder, "finished"):
        return None
    failures = _events(folder, "failed")
    return str(failures[-1].get("error")) if failures else "it did not finish"


def _file(site: Site, name: str) -> Path:
    return site.folder(name) / "selftest.yaml"


def _write(site: Site, shape: Shape, topology: Topology, steps: int = STEPS) -> None:
    folder = site.folder(topology.name)
    folder.mkdir(parents=True, exist_ok=True)
    config = configuration(folder, store(site), shape, topology, steps)
    write_atomic(_file(site, topology.name), to_yaml(config))


def is_built(site: Site) -> bool:
    """Whether there is a store to train on."""
    return (store(site) / "manifest.json").is_file()
