"""`megabiomed align`: read and check the configuration, then join the ranks or start them here."""

from __future__ import annotations

from megabiomed.align.worker import load, run
from megabiomed.checkpoint.files import make_writable, write_atomic
from megabiomed.config import to_yaml
from megabiomed.config.align import AlignRunConfig
from megabiomed.config.topology import check_run, default_world
from megabiomed.encoders.placement import check_ranks
from megabiomed.errors import ConfigError
from megabiomed.launch.local import under_launcher
from megabiomed.model.llama.origin import check_frozen_folder
from megabiomed.train.launching import compact, start_here


def align(path: str, overrides: list[str], nproc: int | None, stage: str | None, dry_run: bool) -> None:
    """Start a run, join one, or (dry run) only say what would be done."""
    config = load(path, overrides)
    names = [held.name for held in config.align.stages]
    if stage is not None and stage not in names:
        raise ConfigError("there is no such stage", got=stage, expected=", ".join(names))
    from megabiomed import platform

    if under_launcher() and not dry_run:
        platform.leave(run(config, stage))

    world = nproc or default_world(config.parallel, platform.device_count())
    check_run(config, world)
    check_ranks(config.align, world)
    check_frozen_folder(config.align.language_model, config.model)
    print(compact(config), flush=True)
    if dry_run:
        for line in describe(config, world):
            print(line)
        return
    make_writable(config.folder)
    write_atomic(config.folder / "config.yaml", to_yaml(config))
    start_here("megabiomed.align.worker", config, world, *([stage] if stage else []))


def describe(config: AlignRunConfig, world: int) -> list[str]:
    """The stages and what they hold on a rank."""
    from megabiomed.align.memory import state_bytes

    lines = []
    for stage in config.align.stages:
        held = state_bytes(config, stage, world)
        parts = ", ".join(f"{name} {value / 2**30:.2f} GiB" for name, value in held.items())
        lines.append(f"stage {stage.name}: {stage.steps} steps, per rank without activations: {parts}, "
                     f"together {sum(held.values()) / 2**30:.2f} GiB")  # fmt: skip
    return [*lines, *config.eval.absent()]
