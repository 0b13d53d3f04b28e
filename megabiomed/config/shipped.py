"""The YAML files shipped with megabiomed in configs/: models/, encoders/, runs/, chains/, clusters/."""

from __future__ import annotations

from pathlib import Path

from megabiomed.ground.errors import ConfigError
from megabiomed.ground.nearest import nearest

ROOT = Path(__file__).parent.parent / "configs"


def names(kind: str) -> list[str]:
    """Names of the shipped files of one kind, without `.yaml`."""
    return sorted(file.stem for file in (ROOT / kind).glob("*.yaml"))


def find(kind: str, name: str | Path) -> Path:
    """The file that `name` means: an existing path, or a shipped file of this kind.

    Raises:
        ConfigError: `name` is neither.
    """
    if not isinstance(name, str | Path):
        raise ConfigError(f"{kind[:-1]} is not a name", got=repr(name)[:100], expected="a file, or a shipped name")
    given, shipped = Path(name), ROOT / kind / f"{name}.yaml"
    try:
        if given.exists() and not given.is_dir():
            return given
        # A name with a slash is a path: a misspelt one never becomes a shipped file.
        if given.parent == Path() and shipped.is_file():
            return shipped
    except (OSError, ValueError):  # too long for a path, or with a null byte: it names neither
        pass
    near = nearest(str(name), names(kind))
    raise ConfigError(
        f"there is no {kind[:-1]} configuration of that name",
        got=repr(str(name))[:200],
        expected=f"a file, or one of {', '.join(names(kind))}",
        do=f"did you mean {near!r}?" if near else "check the path",
    )
