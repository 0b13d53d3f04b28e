"""Shipped things are found by name, a user's own by `package.module:attribute`, and mistakes are explained."""

from __future__ import annotations

from pathlib import Path

import pytest

from megabiomed.ground.errors import ConfigError
from megabiomed.ground.registry import Registry


def _numbers() -> Registry[int]:
    return Registry("number", {"pi": "math:pi", "tau": "math:tau"}, lambda held: isinstance(held, float), "a float")


def test_shipped_and_own_things_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_numbers.py").write_text("class More:\n    golden = 1.618\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert _numbers().find("pi") == pytest.approx(3.14159, abs=1e-5)
    assert _numbers().find("own_numbers:More.golden") == 1.618


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("taw", "unknown number: got 'taw', expected one of pi, tau, or package.module:attribute; did you mean 'tau'?"),
        (":x", "unknown number"),
        ("no_such_module:x", "cannot be imported: got ModuleNotFoundError: No module named 'no_such_module'"),
        ("math:no_such_name", "cannot be imported: got AttributeError"),
        ("math:sqrt", "'math:sqrt' is not a number: got <built-in function sqrt>, expected a float"),
    ],
)
def test_a_wrong_name_is_explained(name: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _numbers().find(name)
    assert says in str(caught.value)
