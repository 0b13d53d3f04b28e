"""Which factor of the learning rate a tensor has by its name: the rule of `optimizer.lr_scales`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase

from megabiomed.ground.errors import ConfigError


def factor_of(scales: Mapping[str, float], together: Collection[str]) -> float:
    """The factor of tensors that are one matrix, 1 where no pattern fits; `ConfigError` where they differ."""
    found = {next((scale for pattern, scale in scales.items() if fnmatchcase(name, pattern)), 1.0) for name in together}
    if len(found) > 1:
        raise ConfigError(
            "optimizer.lr_scales gives tensors that are one matrix in memory several factors",
            got=", ".join(sorted(together)), expected="the same factor for all of them",
            do="use a pattern that fits all of them, such as `*.self_attn.*`",
        )  # fmt: skip
    return next(iter(found), 1.0)
