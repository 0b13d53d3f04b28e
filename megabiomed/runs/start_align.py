"""`megabiomed align`: read and check the configuration, then join the ranks or start them here."""

from __future__ import annotations

from collections.abc import Sequence

from megabiomed.config import to_yaml
from megabiomed.config.align import AlignRunConfig
from megabiomed.config.topology import check_run, default_world
from megabiomed.encoders.schedule import check_ranks, encoding_ranks
from megabiomed.ground.errors import ConfigError
from megabiomed.ground.files import make_writable, write_atomic
from megabiomed.model.origin import check_frozen_folder
from megabiomed.processes.local import under_launcher
from megabiomed.runs.start_pretrain import compact, start_here
from megabiomed.runs.worker_align import load, run


def align(path: str, overrides: list[str], nproc: int | None, stage: str | None, dry_run: bool) -> None:
    """Start a run, join one, or (dry run) only say what would be done."""
    config = load(path, overrides)
    names = [held.name for held in config.align.stages]
    if stage is not None and stage not in names:
        raise ConfigError("there is no such stage", got=stage, expected=", ".join(names))
    from megabiomed.processes import platform

    if under_launcher() and not dry_run:
        platform.leave(run(config, stage))

    world = nproc or default_world(config.parallel, platform.device_count(), config.ranks_beside)
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
    start_here("megabiomed.runs.worker_align", config, world, *([stage] if stage else []))


def describe(config: AlignRunConfig, world: int) -> list[str]:
    """Which ranks do what, the stages, and what they hold on a rank."""
    from megabiomed.align.memory import state_bytes

    model, encode = range(world - config.ranks_beside), encoding_ranks(config.align, world)
    lines = [f"ranks: {_numbers(model)}: language model; {_numbers(encode)}: encoders"]
    for stage in config.align.stages:
        held = state_bytes(config, stage, world)
        if not config.ranks_beside:
            lines.append(f"stage {stage.name}: {stage.steps} steps, per rank without activations: {_sizes(held)}")
            continue
        of_model = {"language_model": held.pop("language_model")}
        lines.append(f"stage {stage.name}: {stage.steps} steps, without activations: per rank of the language model: "
                     f"{_sizes(of_model)}; per encoder rank: {_sizes(held)}")  # fmt: skip
    return [*lines, *config.eval.absent()]


def _numbers(ranks: Sequence[int]) -> str:
    """`0 to 7`, `8`, or `1, 3`."""
    if len(ranks) > 1 and list(ranks) == list(range(ranks[0], ranks[-1] + 1)):
        return f"{ranks[0]} to {ranks[-1]}"
    return ", ".join(map(str, ranks))


def _sizes(held: dict[str, float]) -> str:
    """`molecule 0.01 GiB, protein 5.28 GiB, together 5.29 GiB`."""
    together = {"together": sum(held.values())} if len(held) > 1 else {}
    return ", ".join(f"{name} {value / 2**30:.2f} GiB" for name, value in (held | together).items())
