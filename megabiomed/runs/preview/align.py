"""An alignment before its start."""

from __future__ import annotations

from collections.abc import Sequence

from megabiomed.config.align import AlignRunConfig
from megabiomed.encoders.schedule import check_ranks, encoding_ranks
from megabiomed.model.start_from import check_start


def check(config: AlignRunConfig, world: int) -> None:
    """The ranks that encode exist, and the language model is the configured one with a row for every piece."""
    check_ranks(config.align, world)
    check_start(config.align.language_model, config.model)


def describe(config: AlignRunConfig, world: int) -> list[str]:
    """Which ranks do what, the stages, and what they hold on a rank."""
    from megabiomed.align.memory import state_bytes

    model, encode = range(world - config.extra_ranks), encoding_ranks(config.align, world)
    lines = [f"ranks: {_numbers(model)}: language model; {_numbers(encode)}: encoders"]
    for stage in config.align.stages:
        held = state_bytes(config, stage, world)
        if not config.extra_ranks:
            lines.append(f"stage {stage.name}: {stage.steps} steps, per rank without activations: {_sizes(held)}")
            continue
        of_model = {"language_model": held.pop("language_model")}
        lines.append(f"stage {stage.name}: {stage.steps} steps, without activations: per rank of the language model: "
                     f"{_sizes(of_model)}; per encoder rank: {_sizes(held)}")  # fmt: skip
    start = config.align.language_model or config.model.init_from
    absent = [f"align.language_model: {start}, not there yet"] if start is not None and not start.exists() else []
    return [*lines, *absent, *config.eval.absent()]


def _numbers(ranks: Sequence[int]) -> str:
    """`0 to 7`, `8`, or `1, 3`."""
    if len(ranks) > 1 and list(ranks) == list(range(ranks[0], ranks[-1] + 1)):
        return f"{ranks[0]} to {ranks[-1]}"
    return ", ".join(map(str, ranks))


def _sizes(held: dict[str, float]) -> str:
    """`molecule 0.01 GiB, protein 5.28 GiB, together 5.29 GiB`."""
    together = {"together": sum(held.values())} if len(held) > 1 else {}
    return ", ".join(f"{name} {value / 2**30:.2f} GiB" for name, value in (held | together).items())
