"""The strict base of every configuration section: frozen, typed, and an unknown key names its nearest neighbour."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Self, TypeVar, Union, get_args, get_origin, overload

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, model_validator

from megabiomed.ground.errors import ConfigError
from megabiomed.ground.nearest import nearest
from megabiomed.ground.secrets import is_secret

S = TypeVar("S", bound="Section")
T = TypeVar("T")
# Whole numbers travel as int64.
_BITS = 63
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_EXPANDED = re.compile(r"~(/|$)|\$[A-Za-z_{]")


class Section(BaseModel):
    """A frozen configuration section. Unknown keys are errors; values are not coerced between kinds."""

    # forbid: a misspelt key that is ignored trains something else for weeks. frozen: what is stored with a checkpoint is what
    # ran. The docstrings become docs/configuration.md, so that a key is explained in one place.
    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _of_their_kind(cls, values: Any) -> Any:
        """Refuse what pydantic takes even when strict: 1.0 for a listed 1, and any text for a path."""
        for name, value in values.items() if isinstance(values, dict) else ():
            kinds = _kinds(cls.model_fields[name].annotation) if name in cls.model_fields else set()
            if isinstance(value, str) and "\0" in value:
                raise ValueError(
                    f"{name} {value!r} holds a zero byte, which no path and no argument of a process can have"
                )
            if isinstance(value, str) and Path in kinds and (problem := _no_path(value)):
                raise ValueError(f"{name} {value!r} {problem}")
            if type(value) in (float, bool) and type(value) not in kinds and int in kinds and Literal in kinds:
                raise ValueError(f"{name} {value!r} is no whole number")
        return values

    @model_validator(mode="after")
    def _within_64_bits(self) -> Self:
        """Neither numpy nor torch takes more, and they say so by errors of many kinds."""
        for name, value in vars(self).items():
            if isinstance(value, int) and value.bit_length() > _BITS:
                raise ValueError(f"{name} is a whole number of {value.bit_length()} bits; it may have {_BITS}")
        return self

    @classmethod
    def section_at(cls, key: str, values: object) -> type[Section] | None:
        """The class of the section, or of the sections, under a key; None where there is none.

        Args:
            values: of this section, for keys whose class depends on them.
        """
        field = cls.model_fields.get(key)
        return None if field is None else _section_of(field.annotation)


def parse(cls: type[S], values: Any, source: str) -> S:
    """Build a section from plain values; all complaints of pydantic become one `ConfigError`.

    Args:
        source: where the values came from, for the message (a file name, say).
    """
    try:
        # As JSON, because strict means there what a reader of YAML expects: "5" is not a number, 0.0 is not false, but
        # text may be a path.
        return cls.model_validate_json(json.dumps(values, default=_plain), strict=True)
    except ValidationError as error:
        raise ConfigError(
            f"{source} is not a valid configuration\n"
            + "\n".join(f"  {_describe(cls, values, complaint)}" for complaint in error.errors())
            + "\n ",
            do="correct the keys above (docs/configuration.md lists all of them)",
        ) from None


@overload
def nested(cls: type[S], values: object, mode: str) -> S: ...


@overload
def nested(cls: TypeAdapter[T], values: object, mode: str) -> T: ...


def nested(cls: Any, values: object, mode: str) -> Any:
    """A section inside another one, whose class depends on its values; complaints keep their keys.

    Args:
        mode: of the validation of the outer one: "json" (strict) or "python".
    """
    adapter = cls if isinstance(cls, TypeAdapter) else TypeAdapter(cls)
    # Strict as in `parse`; python mode is that of sections built in code.
    return adapter.validate_json(json.dumps(values), strict=True) if mode == "json" else adapter.validate_python(values)


def _plain(value: object) -> object:
    """What JSON has no form for: sections that were built already, and paths."""
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)


def _describe(cls: type[Section], values: Any, complaint: Any) -> str:
    path = [str(part) for part in complaint["loc"]]
    dotted = ".".join(path)
    if complaint["type"] == "extra_forbidden":
        near = nearest(path[-1], _fields_at(cls, values, path[:-1]))
        return f"unknown key {dotted!r}" + (f": did you mean {'.'.join([*path[:-1], near])!r}?" if near else "")
    if complaint["type"] == "missing":
        return f"missing key {dotted!r}"
    message = complaint["msg"].removeprefix("Value error, ")
    where = f"{dotted}: " if dotted else ""
    return f"{where}{message}" + ("" if complaint["type"] == "value_error" else f", got {_shown(path, complaint)}")


def _shown(path: list[str], complaint: Any) -> str:
    """The value that was wrong; of a credential, or of what may hold one, its type alone."""
    value = complaint["input"]
    held = [*path, *(str(key) for key in value)] if isinstance(value, dict) else path
    hides = path[-1:] == ["mlflow_uri"] or any(is_secret(name, "any") for name in held)
    return type(value).__name__ if hides else repr(value)


def _fields_at(cls: type[Section], values: Any, path: list[str]) -> list[str]:
    """Keys that a section below `cls` may have."""
    here: type[Section] | None = cls
    named = False  # whether the next part names an entry of a mapping or list of sections
    for part in path:
        if named or part.isdigit():
            named = False
        elif here is not None:
            field = here.model_fields.get(part)
            named = field is not None and str(field.annotation).startswith("dict[")
            here = here.section_at(part, values)
        values = _inside(values, part)
    return list(here.model_fields) if here is not None else []


def _inside(values: Any, part: str) -> Any:
    if isinstance(values, list) and part.isdigit():
        return values[int(part)]
    return values.get(part) if isinstance(values, dict) else None


def _kinds(annotation: Any) -> set[Any]:
    """The types in an annotation such as `Path | None`; of a `Literal` itself and the types of its values."""
    if get_origin(annotation) is Literal:
        return {Literal, *map(type, get_args(annotation))}
    inner = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else ()
    return set().union(*map(_kinds, inner)) if inner else {annotation}


def _no_path(text: str) -> str | None:
    """Why a text would not be the path that its writer means: nothing here expands or downloads."""
    if not text.strip():
        return "is empty; give a path, or null"
    if _URI.match(text):
        return "is an address; give a path of a mounted file system"
    if _EXPANDED.match(text):
        return "is expanded by shells alone; give the whole path"
    return None


def _section_of(annotation: Any) -> Any:
    """The Section class inside an annotation such as `list[Source] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        section = _section_of(inner)
        if section is not None:
            return section
    return None
