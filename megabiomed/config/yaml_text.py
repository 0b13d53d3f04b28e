"""YAML as configurations need it: the core types of YAML 1.2, no tags, finite numbers, and bounds on size and depth.

PyYAML follows YAML 1.1, where `12:30:45` is a number, `yes` is true and `2e-5` is text; it also expands aliases without
limit, so that a few lines can become gigabytes. The loader below keeps its parser and replaces its rules.
"""

from __future__ import annotations

import errno
import math
import re
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import yaml

from megabiomed.ground.errors import ConfigError

# Run files are a few KiB; the bounds keep a hostile file from taking memory or time.
MAX_BYTES = 1 << 20
MAX_DEPTH = 64
MAX_NODES = 100_000
"""Values that a document may expand to, aliases counted as often as they are used."""
_MAX_DIGITS = 64  # longer integers are mistakes, and Python itself refuses to convert those of more than 4,300 digits

_CORE_TYPES: tuple[tuple[str, str, list[str]], ...] = (
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
     list("-+.0123456789")),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
)  # fmt: skip
"""Tag, pattern and first characters of the scalars that are not text (YAML 1.2.2, section 10.3.2)."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe parser with the core schema of YAML 1.2; counts what it builds."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """As PyYAML, within a depth that no recursion limit is needed for."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise yaml.constructor.ConstructorError(None, None, f"nested more than {MAX_DEPTH} levels deep", None)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


# Tables of its own: what is added below must not change what PyYAML reads elsewhere in this process.
_Loader.yaml_implicit_resolvers = {}
_Loader.yaml_constructors = {}
for _name, _pattern, _first in _CORE_TYPES:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_pattern})$"), _first)


def _whole_number(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = str(node.value)
    if len(text) > _MAX_DIGITS:
        raise yaml.constructor.ConstructorError(None, None, f"a number of {len(text)} digits", node.start_mark)
    return int(text, 0) if text.startswith(("0o", "0x")) else int(text)


def _real_number(loader: _Loader, node: yaml.ScalarNode) -> float:
    # Python writes the words for infinity and not-a-number without YAML's dot.
    value = float(re.sub(r"\.(inf|nan)$", r"\1", str(node.value).lower()))
    if not math.isfinite(value):
        raise yaml.constructor.ConstructorError(None, None, f"{node.value} is not a finite number", node.start_mark)
    if value == 0 and re.search(r"[1-9]", str(node.value).lower().partition("e")[0]):
        raise yaml.constructor.ConstructorError(None, None, f"{node.value} is too small a number", node.start_mark)
    return value


def _text(loader: _Loader, node: yaml.ScalarNode) -> str:
    text = str(node.value)
    # An escape may spell half of a surrogate pair, which no file and no checked JSON can hold.
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise yaml.constructor.ConstructorError(None, None, f"{text!a} is no valid text", node.start_mark)
    return text


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    found: dict[Hashable, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        # Configurations are checked as JSON, which would turn other keys into text.
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is not text", key_node.start_mark)
        # PyYAML would silently keep the last of two.
        if key in found:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", key_node.start_mark)
        found[key] = loader.construct_object(value_node, deep=True)
    return found


def _unknown_tag(loader: _Loader, node: yaml.Node) -> Any:
    raise yaml.constructor.ConstructorError(None, None, f"the tag {node.tag} is not read here", node.start_mark)


_MADE_BY: dict[str, Callable[..., Any]] = {
    "int": _whole_number,
    "float": _real_number,
    "map": _mapping,
    "str": _text,
    "null": yaml.SafeLoader.construct_yaml_null,
    "bool": yaml.SafeLoader.construct_yaml_bool,
    "seq": yaml.SafeLoader.construct_sequence,
}
for _name, _make in _MADE_BY.items():
    _Loader.yaml_constructors[f"tag:yaml.org,2002:{_name}"] = _make
# Under the key None PyYAML looks up all other tags.
_Loader.yaml_constructors[None] = _unknown_tag


def read_yaml(text: str, source: str) -> Any:
    """Parse one YAML document.

    Args:
        source: where the text came from, for messages.

    Raises:
        ConfigError: with the line, for anything but core types, finite numbers and text keys within the limits.
    """
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{source} is too long", got=f"{len(text):,} characters", expected=f"at most {MAX_BYTES:,}")
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        # On the nodes, before aliases become values.
        _check_size(node, source)
        return loader.construct_document(node)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{source} is not readable YAML\n{error}\n ", do="correct the line above") from None
    finally:
        if loader is not None:
            loader.dispose()


def _check_size(root: yaml.Node, source: str) -> None:
    """Refuse a document whose aliases expand to more than `MAX_NODES` values, without expanding it."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node) -> int:
        if id(node) in sizes:
            if sizes[id(node)] < 0:
                raise yaml.constructor.ConstructorError(None, None, "an alias contains itself", node.start_mark)
            return sizes[id(node)]
        # Marks a node that is being counted: meeting it again is a cycle.
        sizes[id(node)] = -1
        inner: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            inner = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            inner = list(node.value)
        sizes[id(node)] = 1 + sum(map(size, inner))
        return sizes[id(node)]

    if size(root) > MAX_NODES:
        raise ConfigError(f"{source} expands to too many values", expected=f"at most {MAX_NODES:,}")


def read_yaml_file(file: Path) -> Any:
    """Parse a YAML file, as `read_yaml`; a file that cannot be read as text is a `ConfigError` too."""
    try:
        if not file.is_file():  # also keeps pipes and devices from being opened, which could wait for ever
            raise ConfigError(f"{file} is not a file", do="give the path of a YAML file")
        # A character has at most 4 bytes in UTF-8; the exact limit is checked on the text.
        if file.stat().st_size > 4 * MAX_BYTES:
            raise ConfigError(f"{file} is too long", got=f"{file.stat().st_size:,} bytes", expected=f"{MAX_BYTES:,}")
        # Editors on Windows put a byte order mark in front.
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8 text", got=str(error), do="save it as UTF-8") from None
    except OSError as error:
        reason = errno.errorcode.get(error.errno or 0, "")
        raise ConfigError(f"{str(file)[:200]} cannot be read", got=f"{error.strerror} {reason}".strip()) from None
    return read_yaml(text, str(file))


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe writer; quotes text that either version of YAML would read as something else."""


_Dumper.yaml_implicit_resolvers = {
    first: list(rules) for first, rules in yaml.SafeDumper.yaml_implicit_resolvers.items()
}
for _name, _pattern, _first in _CORE_TYPES:
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_pattern})$"), _first)


def write_yaml(values: Any) -> str:
    """YAML that `read_yaml` turns into the same values; keys keep their order."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=False)
