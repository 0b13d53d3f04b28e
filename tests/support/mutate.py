"""JSON values with one thing wrong somewhere inside."""

from __future__ import annotations

import random
from typing import Any

STRANGE: list[Any] = [
    None, "", " ", "null", "[]", "{}", "\x00\u2028", 0, -1, 2**63, 1.5, True, [], {}, [None], [[]], {"": None},
    '[{"start": "3", "end": "9"}]', '[{"start": 9, "end": 3}]', '[{"start": 0, "end": 99999999}]', "[{", '[{"end": 1}]',
    "\ud800", "a\udfffz",
    '[{"start": 1, "end": 5}, {"start": 2, "end": 9}]', '[{"start": 1e9, "end": NaN}]', "[" * 5000, [{"start": -4, "end": 2}],
]  # fmt: skip


def mutate(value: Any, rng: random.Random) -> Any:
    """Change, remove or add one thing somewhere inside a JSON value."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.2:
        return rng.choice(STRANGE)
    key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
    if rng.random() < 0.15:
        del value[key]
    elif isinstance(key, str) and rng.random() < 0.1:
        value[key + rng.choice(["\ud800", "\udfff", "\U0001f9ec"])] = value.pop(key)
    else:
        value[key] = mutate(value[key], rng)
    return value
