"""Finds the architecture that `model.kind` names: a shipped one by its short name, a user's own by `package.module:Class`."""

from __future__ import annotations

from megabiomed.config.schema import ModelConfig
from megabiomed.ground.registry import Registry
from megabiomed.model.architecture import Architecture

MODELS: Registry[type[Architecture]] = Registry(
    "model",
    {"llama": "megabiomed.model.llama.table:Llama"},
    accepts=lambda held: isinstance(held, type) and issubclass(held, Architecture),
    expected="a subclass of megabiomed.model.architecture.Architecture",
)


def architecture_of(config: ModelConfig) -> Architecture:
    """The architecture of a configuration, at its sizes.

    Raises:
        ConfigError: the kind is unknown or cannot be imported.
    """
    return MODELS.find(config.kind)(config)
