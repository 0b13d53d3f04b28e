"""Norms of gradients under the names of logical tensors; the parity suite compares them on every topology."""

from __future__ import annotations

import math

import pytest
import torch

from megabiomed.checkpoint.logical import Box, PlacedBox, Placement
from megabiomed.engine.gradient_norms import GradientNorms, GradientPart

FUSED = Placement(
    (5, 2), (PlacedBox(0, Box.whole("q", (2, 2))), PlacedBox(2, Box.whole("k", (2, 2))))
)  # a row of padding


def norms_of(*parts: GradientPart) -> dict[str, float]:
    norms = GradientNorms()
    norms.record(["q", "k", "unused"])
    norms.begin()
    norms.add(parts)
    norms.finish()
    return norms.read()


def test_parts_of_a_fused_parameter_count_under_their_own_names_and_padding_under_none(alone: None) -> None:
    values = torch.arange(10, dtype=torch.float32)
    expected = {"q": math.sqrt(14), "k": math.sqrt(16 + 25 + 36 + 49), "unused": 0.0}
    assert norms_of(GradientPart(FUSED, 0, values)) == pytest.approx(expected, rel=1e-6)
    halves = [GradientPart(FUSED, 0, values[:3]), GradientPart(FUSED, 3, values[3:])]  # as ZeRO cuts it
    assert norms_of(*halves) == pytest.approx(expected, rel=1e-6)
    assert norms_of(GradientPart(FUSED, 0, values.bfloat16().view(5, 2))) == pytest.approx(expected, rel=1e-2)


def test_what_is_not_finite_stays_so_for_its_tensor_alone(alone: None) -> None:
    values = torch.ones(10)
    values[5] = math.nan
    found = norms_of(GradientPart(FUSED, 0, values))
    assert math.isnan(found["k"])
    assert found["q"] == 2.0


def test_nothing_is_taken_until_somebody_asks(alone: None) -> None:
    norms = GradientNorms()
    for wanted in ([], ["q", "k"], []):
        norms.record(wanted)
        norms.begin()
        norms.add([GradientPart(FUSED, 0, torch.ones(10))])
        norms.finish()
        assert norms.read() == dict.fromkeys(sorted(wanted), 2.0)
