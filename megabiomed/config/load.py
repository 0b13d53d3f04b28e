"""From a YAML file and dotted overrides to a checked `RunConfig`, and back to YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar, overload

from megabiomed.config import shipped
from megabiomed.config.base import parse
from megabiomed.config.modalities import encoder_places
from megabiomed.config.schema import RunConfig
from megabiomed.config.yaml_text import read_yaml, read_yaml_file, write_yaml
from megabiomed.ground.errors import ConfigError

R = TypeVar("R", bound=RunConfig)


@overload
def load_config(path: str | Path, overrides: list[str] | None = None) -> RunConfig: ...


@overload
def load_config(path: str | Path, overrides: list[str] | None, kind: type[R]) -> R: ...


def load_config(path: str | Path, overrides: list[str] | None = None, kind: type[RunConfig] = RunConfig) -> RunConfig:
    """Read a run file, apply `a.b=value` overrides and validate.

    `path` is a file, or the name of one shipped in configs/runs (`demo`, `biomedgpt-lm-7b`). `model:` may be the name of
    a file in configs/models, or a mapping whose `base:` is such a name and whose other keys replace its values; the same
    holds for every encoder of `align` with configs/encoders.

    Args:
        kind: RunConfig, or the class of another kind of run.
    """
    file = shipped.find("runs", path)
    values = read_yaml_file(file)
    if not isinstance(values, dict):
        raise ConfigError(f"{file} is not a mapping", got=type(values).__name__, do="start it with `name: ...`")
    for override in overrides or []:
        _apply(values, override)
    # After the overrides: one of them may name another base.
    values["model"] = _resolve(values.get("model", {}), "models")
    align = values.get("align")
    if isinstance(align, dict):
        for holder, key in encoder_places(align):
            holder[key] = _resolve(holder.get(key, {}), "encoders")
    return parse(kind, values, str(file))


def _apply(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise ConfigError("an override cannot be read", got=repr(override), expected="section.key=value")
    # `model: llama2-7b` in the file and `model.vocab_size=...` on the command line: the name becomes the base of a mapping.
    if parts[0] == "model" and isinstance(values.get("model"), str):
        values["model"] = {"base": values["model"]} if len(parts) > 1 else values["model"]
    here: Any = values
    for part in parts[:-1]:
        here = _child(here, part, key)
    # Read as YAML, so that `false`, `null` and `[a, b]` mean what they mean in a file.
    if isinstance(here, list):
        here[_position(here, parts[-1], key)] = read_yaml(text, override)
    else:
        here[parts[-1]] = read_yaml(text, override)


def _child(here: Any, part: str, key: str) -> Any:
    if isinstance(here, list):
        return here[_position(here, part, key)]
    # A section that the file leaves out, or sets to null, begins empty.
    if here.get(part) is None:
        here[part] = {}
    if not isinstance(here[part], dict | list):
        raise ConfigError(f"override {key!r} goes below {part!r}, which is a value", got=repr(here[part]))
    return here[part]


def _position(here: list[Any], part: str, key: str) -> int:
    if not part.isdigit() or int(part) >= len(here):
        raise ConfigError(f"override {key!r} is not an entry of the list", got=part, expected=f"0..{len(here) - 1}")
    return int(part)


def _resolve(value: Any, folder: str) -> dict[str, Any]:
    """A mapping, with the values of its `base`, or of the file that it names, under its own."""
    if isinstance(value, str):
        value = {"base": value}
    if not isinstance(value, dict):
        example = shipped.names(folder)[0]
        raise ConfigError(
            f"{folder[:-1]} is neither a name nor a mapping", got=repr(value), do=f"write e.g. `{example}`"
        )
    base = value.pop("base", None)
    if base is None:
        return value
    file = shipped.find(folder, base)
    # One level deep: a key of the mapping replaces the whole value of the base.
    return {**read_yaml_file(file), **value}


def to_yaml(config: RunConfig) -> str:
    """The effective configuration, every default spelled out, as YAML that `load_config` reads back."""
    return write_yaml(config.model_dump(mode="json"))
