"""Start a run of any kind: read and check its file, then join the ranks that a launcher started, or start them here."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module

from megabiomed.config import RunConfig, to_yaml
from megabiomed.config.topology import check_run, default_world
from megabiomed.ground.files import check_makeable, make_writable, write_atomic
from megabiomed.ground.secrets import masked
from megabiomed.processes.fork import can_fork
from megabiomed.processes.local import run_workers, under_launcher
from megabiomed.processes.torchrun import hosts_for, torchrun
from megabiomed.runs import kinds, worker
from megabiomed.runs.effective import FILE, compact
from megabiomed.runs.tracking import find_trackers
from megabiomed.runs.tracking.credentials import handed_over


@dataclass(frozen=True)
class StartOptions:
    """How a run is started.

    Attributes:
        nproc: processes to start on this machine; None: what the topology needs.
        part: one part of the run only (a stage of an alignment); None: all of it.
        dry_run: check, and say what the run would take; start nothing.
    """

    nproc: int | None = None
    part: str | None = None
    dry_run: bool = False


def start(run: str, overrides: list[str], options: StartOptions, expected: str | None = None) -> None:
    """Start a run, join one, or (dry run) only say what would be done.

    Args:
        run: run file, or the name of a shipped one.
        expected: name of the only kind that is accepted; None: any.

    Raises:
        ConfigError: the file is wrong or of another kind, or the run cannot be done as it says.
        WorkerError: a rank that was started here died.
    """
    kind = kinds.kind_of_file(run, overrides)
    kinds.check_kind(kind, run, expected)
    config = kind.read(run, overrides)
    if options.part is not None:
        config.part(options.part)
    from megabiomed.processes import platform

    # This process is a rank already: the trainer checks the topology itself, and there is nothing to start.
    if under_launcher() and not options.dry_run:
        platform.leave(worker.run(lambda: config, options.part))
    world = options.nproc or default_world(config.parallel, platform.device_count(), config.extra_ranks)
    check_run(config, world)
    kind.check_start(config, world)
    find_trackers(config.tracking)
    if options.dry_run:
        check_makeable(config.folder)
        print(compact(config))
        for line in kind.description(config, world):
            print(line)
        launcher = torchrun(*hosts_for(world, platform.device_count(), config.parallel.tensor_parallel_size))
        stage = ["--stage", options.part] if options.part is not None else []
        typed = shlex.join(["run", run, *overrides, *stage])
        # The line is made to be copied into scripts and tickets.
        print(f"command: {launcher} -m megabiomed.cli {masked(typed)}")
        return
    _start_here(config, world, options.part)


def _start_here(config: RunConfig, world: int, part: str | None) -> None:
    """Run the ranks on this machine, each with the effective configuration and a log in a folder of this start."""
    # By time and process, so that two starts within a second keep separate logs.
    logs = config.folder / "logs" / (datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ") + f"-{os.getpid()}")
    make_writable(logs)
    effective = logs / FILE
    write_atomic(effective, to_yaml(config))
    # Ranks inherit the environment; the configuration that they read holds `***` for credentials.
    os.environ.update(handed_over(config))
    _import_for_ranks(config)
    run_workers(kinds.WORKER, [str(effective), *([part] if part else [])], world, logs)


def _import_for_ranks(config: RunConfig) -> None:
    """Ranks that are forked from this process share what it has imported."""
    if not can_fork():
        return
    # Every optimizer loads torch's tracer.
    for name in ("torch._dynamo", "megabiomed.runs.trainer"):
        import_module(name)

    if config.parallel.engine == "deepspeed":
        from megabiomed.engine.deepspeed_settings import import_deepspeed

        import_deepspeed()
