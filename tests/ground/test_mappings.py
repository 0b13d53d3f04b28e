"""Nested mappings become flat ones."""

from __future__ import annotations

from megabiomed.ground.mappings import leaves


def test_keys_are_dotted_and_lists_and_empty_mappings_are_values() -> None:
    nested = {"a": 1, "b": {"c": [2, {"x": 3}], "d": {"e": None}, "f": {}}}
    assert list(leaves(nested)) == [("a", 1), ("b.c", [2, {"x": 3}]), ("b.d.e", None), ("b.f", {})]
    assert list(leaves({})) == []
