"""`megabiomed pretrain`: read and check the configuration, then join the ranks or start them here."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import yaml

from megabiomed.config import RunConfig, load_config, to_yaml
from megabiomed.config.topology import check_run, default_world
from megabiomed.ground.files import make_writable, write_atomic
from megabiomed.processes.local import run_workers, under_launcher


def pretrain(config_path: str, overrides: list[str], nproc: int | None, dry_run: bool) -> None:
    """Start a run, join one, or (dry run) only say what would be done."""
    config = load_config(config_path, overrides)
    if under_launcher() and not dry_run:
        _join(config)
        return
    from megabiomed.processes import platform

    world = nproc or default_world(config.parallel, platform.device_count())
    check_run(config, world)
    if config.lora is not None:
        from megabiomed.model.origin import check_frozen_folder

        check_frozen_folder(None, config.model)
    print(compact(config), flush=True)
    if dry_run:
        _print_bill(config, world)
        return
    start_here("megabiomed.runs.worker_pretrain", config, world)


def start_here(worker: str, config: RunConfig, world: int, *arguments: str) -> None:
    """Run the ranks on this machine, each with the effective configuration and a log in a folder of this start."""
    logs = config.folder / "logs" / (datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ") + f"-{os.getpid()}")
    make_writable(logs)
    effective = logs / "config.yaml"
    write_atomic(effective, to_yaml(config))
    run_workers(worker, [str(effective), *arguments], world, logs)


def compact(config: RunConfig) -> str:
    """The effective configuration, one section a line."""
    values = config.model_dump(mode="json")
    lines = []
    for section, content in values.items():
        text = yaml.safe_dump(content, default_flow_style=True, sort_keys=False, width=10**6).strip()
        lines.append(f"{section}: {text.removesuffix('...').strip()}")
    return "\n".join(lines)


def _join(config: RunConfig) -> None:
    from megabiomed.processes import platform
    from megabiomed.runs import worker_pretrain as worker

    if os.environ.get("RANK", os.environ.get("SLURM_PROCID")) == "0":
        print(compact(config), flush=True)
    platform.leave(worker.run(lambda: config))


def _print_bill(config: RunConfig, world: int) -> None:
    from megabiomed.data.loader import open_training_data
    from megabiomed.runs.bill import bill
    from megabiomed.runs.schedule import total_steps

    known = all(Path(source.path).is_dir() for source in config.data.train) and bool(config.data.train)
    samples = open_training_data(config.data, config.seed).samples_per_epoch if known else None
    if samples is None and config.train.steps is None:
        print("length: unknown until the token stores of data.train exist (train.epochs is given)")
    total = total_steps(config, samples or 0) if samples or config.train.steps else None
    for line in [*bill(config, world, total, samples), *config.eval.absent()]:
        print(line)
    print(f"command: torchrun --nproc_per_node={world} -m megabiomed.cli pretrain ...")
