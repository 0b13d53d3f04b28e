"""The YAML files shipped with megabiomed in configs/: models/, encoders/, runs/, chains/, clusters/."""

from __future__ import annotations

from pathlib import Path

from megabiomed.config.base import nearest
from megabiomed.ground.errors import ConfigError

ROOT = Path(__file__).parent.parent / "configs"


def names(kind: str) -> list[str]:
    """Names of the shipped files of one kind, without `.yaml`."""
    return sorted(file.stem for file in (ROOT / kind).glob("*.yaml"))


def find(kind: str, name: str | Path) -> Path:
    """The file that `name` means: an existing path, or a shipped file of this kind."""
    given = Path(name)
    if given.is_file():
        return given
    shipped = ROOT / kind / f"{name}.yaml"
    if given.parent == Path() and shipped.is_file():
        return shipped
    near = nearest(str(name), names(kind))
    raise ConfigError(
        f"no {kind[:-1]} configuration of that name",
        got=repr(str(name)),
        expected=f"a file, or one of {', '.join(names(kind))}",
        do=f"did you mean {near!r}?" if near else "check the path",
    )
