"""The architecture of a configuration: a shipped one by its short name, a user's own by `package.module:Class`."""

from __future__ import annotations

from megabiomed.config.models import MODELS, ModelConfig
from megabiomed.ground.errors import ConfigError
from megabiomed.model.architecture import Architecture


def architecture_class(kind: str) -> type[Architecture]:
    """The class that `model.kind` names.

    Raises:
        ConfigError: the kind is unknown, cannot be imported, or is not an architecture.
    """
    found = MODELS.find(kind)
    if not issubclass(found, Architecture):
        raise ConfigError(f"{kind!r} is not a model", got=repr(found), expected="a subclass of Architecture")
    return found


def architecture_of(config: ModelConfig) -> Architecture:
    """The architecture of a configuration, at its sizes. Raises as `architecture_class`."""
    return architecture_class(config.kind)(config)
