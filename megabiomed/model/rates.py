"""Factors of the learning rate by names of tensors: `optimizer.lr_scales`."""

from __future__ import annotations

from collections.abc import Callable, Collection
from fnmatch import fnmatchcase

from megabiomed.config import RunConfig
from megabiomed.config.rates import factor_of
from megabiomed.ground.errors import ConfigError
from megabiomed.model.registry import architecture_of

OUTSIDE = ("encoder.", "adaptor.")
"""Beginnings of names of tensors that an alignment trains beside the language model."""

Factor = Callable[[Collection[str]], float]
"""From the names of the tensors that are one matrix in memory (q, k and v) to their factor."""


def lr_factors(config: RunConfig) -> Factor:
    """The factors of a run.

    Raises:
        ConfigError: a pattern fits no tensor that is trained, or tensors that are one matrix would get several factors.
    """
    scales, architecture = config.optimizer.lr_scales, architecture_of(config.model)
    names = list(architecture.trained_shapes(config.lora))
    for pattern in scales:
        if not pattern.startswith(OUTSIDE) and not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(
                f"optimizer.lr_scales names no tensor that is trained: {pattern!r}",
                expected=f"a pattern of names such as {names[0]}", do="correct it, or remove the entry",
            )  # fmt: skip

    def factor(together: Collection[str]) -> float:
        return factor_of(scales, together)

    # All matrices of the model, because a rank would see those of its stage alone.
    for matrix in architecture.matrices.values() if scales and config.lora is None else ():
        for tensors in (matrix.weights, matrix.biases):
            factor([tensor.name for tensor in tensors])
    return factor
