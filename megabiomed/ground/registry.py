"""Things that a configuration names: shipped ones by a short name, a user's own by `package.module:attribute`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar, cast

from megabiomed.ground.errors import ConfigError
from megabiomed.ground.nearest import nearest

T = TypeVar("T")


def attribute(reference: str) -> object:
    """What `package.module:attribute` names.

    Raises:
        ImportError, AttributeError, SyntaxError, ValueError: it cannot be imported.
    """
    module, _, path = reference.partition(":")
    held: object = importlib.import_module(module)
    for part in path.split("."):
        held = getattr(held, part)
    return held


class Registry(Generic[T]):
    """Names of one kind of thing, each imported when it is asked for.

    Every process that needs the thing looks it up by the same name, so that a user's own code runs on all ranks.

    Args:
        what: the kind of thing, for messages: "model", "encoder".
        shipped: short name to `module:attribute`. Strings, so that a name costs no import until somebody asks for it.
        accepts: whether an object can serve as such a thing.
        expected: what `accepts` wants, for messages: "a subclass of megabiomed.model.architecture.Architecture".
    """

    def __init__(self, what: str, shipped: Mapping[str, str], accepts: Callable[[object], bool], expected: str) -> None:
        self.what, self.shipped = what, dict(shipped)
        self._accepts, self._expected = accepts, expected
        self._found: dict[str, T] = {}

    def names(self) -> list[str]:
        """The short names."""
        return list(self.shipped)

    def find(self, name: str) -> T:
        """The thing of a name.

        Raises:
            ConfigError: the name is unknown, cannot be imported, or names something else.
        """
        if name not in self._found:
            self._found[name] = self._load(name)
        return self._found[name]

    def check(self, name: str) -> None:
        """Refuse a name that cannot be one, without importing anything.

        Raises:
            ConfigError: it is neither a short name nor `package.module:attribute`.
        """
        module, _, path = self.shipped.get(name, name).partition(":")
        if not module or not path:
            raise self._unknown(name)

    def _load(self, name: str) -> T:
        self.check(name)
        reference = self.shipped.get(name, name)
        try:
            held = attribute(reference)
        except (ImportError, AttributeError, SyntaxError, ValueError) as error:
            raise ConfigError(
                f"the {self.what} {name!r} cannot be imported",
                got=f"{type(error).__name__}: {error}",
                do="install its package or add its folder to PYTHONPATH, on every node",
            ) from error
        if not self._accepts(held):
            raise ConfigError(f"{name!r} is not a {self.what}", got=repr(held), expected=self._expected)
        return cast(T, held)

    def _unknown(self, name: str) -> ConfigError:
        near = nearest(name, self.shipped)
        return ConfigError(
            f"unknown {self.what}",
            got=repr(name),
            expected=f"one of {', '.join(self.shipped)}, or package.module:attribute",
            do=f"did you mean {near!r}?" if near else None,
        )
