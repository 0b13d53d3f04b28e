"""Configurations are YAML 1.2 core: what is written is what is read, and nothing a file holds can hang or crash the reader."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from megabiomed.config import yaml_text
from megabiomed.config.yaml_text import read_yaml, read_yaml_file, write_yaml
from megabiomed.ground.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-5", 2e-5), ("1E3", 1000.0), (".5", 0.5), ("-1.", -1.0), ("0o17", 15), ("0x1f", 31), ("007", 7), ("~", None),
        ("", None), ("true", True), ("FALSE", False), ("yes", "yes"), ("off", "off"), ("12:30:45", "12:30:45"),
        ("1_000", "1_000"), ("2026-01-31", "2026-01-31"), ("0b1", "0b1"), ("<<", "<<"), ("1e5x", "1e5x"),
    ],
)  # fmt: skip
def test_scalars_have_the_core_types(text: str, value: object) -> None:
    read = read_yaml(f"key: {text}", "x")["key"]
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: .inf", ".inf is not a finite number"),
        ("a: [1, .NaN]", ".NaN is not a finite number"),
        ("a: 1e400", "1e400 is not a finite number"),
        ("a: " + "9" * 5000, "a number of 5000 digits"),
        (
            "a: !!python/object/apply:os.system [x]",
            "the tag tag:yaml.org,2002:python/object/apply:os.system is not read",
        ),
        ("a: !!timestamp 2026-01-01", "is not read here"),
        ("a: &a [*a]", "an alias contains itself"),
        ("1: x", "the key 1 is not text"),
        ("[x]: y", "the key ['x'] is not text"),
        ("a: 1\nb: 2\na: 3", "the key 'a' stands twice"),
        ("a: " + "[" * 500, "nested more than 64 levels deep"),
        ("a: 'x", "is not readable YAML"),
        (r'a: "\ud83d"', r"'\ud83d' is no valid text"),
        (r'"\udc00": 1', r"'\udc00' is no valid text"),
        ("a: \x07", "special characters are not allowed"),
        ("a: 1\n--- \nb: 2", "expected a single document"),
        ("#" * (yaml_text.MAX_BYTES + 1), "is too long"),
    ],
)
def test_what_is_not_core_yaml_is_refused_with_its_reason(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_yaml(text, "run.yaml")
    assert says in str(caught.value)


def test_aliases_are_expanded_only_within_bounds() -> None:
    assert read_yaml("a: &x [1, 2]\nb: *x", "x") == {"a": [1, 2], "b": [1, 2]}
    laughs = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    laughs += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    with pytest.raises(ConfigError, match="expands to too many values: expected at most 100,000"):
        read_yaml("\n".join(laughs), "x")


def test_a_file_that_is_no_text_file_is_refused_without_opening_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "latin").write_bytes("name: Müller".encode("latin-1"))
    (tmp_path / "bom").write_bytes(b"\xef\xbb\xbfname: x")
    for name in ("pipe", "/dev/zero", "missing", ".", "x" * 300, "a\0b"):
        with pytest.raises(ConfigError, match=r"is not a file|cannot be read"):
            read_yaml_file(tmp_path / name)
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        read_yaml_file(tmp_path / "latin")
    assert read_yaml_file(tmp_path / "bom") == {"name": "x"}


_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**60), 10**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"))
    | st.sampled_from(["1e5", "yes", "0o7", "12:30:45", "~", "null", "1_0", "=", ""])
)
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
)


@given(_VALUES)
@settings(deadline=None, max_examples=300)
def test_what_is_written_is_what_is_read(values: Any) -> None:
    assert read_yaml(write_yaml({"values": values}), "x") == {"values": values}


def test_other_readers_of_this_process_keep_their_rules() -> None:
    assert yaml.safe_load("a: yes\nb: 12:30:45") == {"a": True, "b": 45045}
