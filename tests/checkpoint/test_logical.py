"""Boxes and placements: any cut of any array is made of boxes that cover it exactly once."""

from __future__ import annotations

from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megabiomed.checkpoint.logical import Box, PlacedBox, Placement, uncovered

SHAPES = st.lists(st.integers(1, 5), min_size=0, max_size=4).map(tuple)


@st.composite
def boxes(draw: st.DrawFn, shape: tuple[int, ...]) -> Box:
    offset = tuple(draw(st.integers(0, n - 1)) for n in shape)
    return Box("w", shape, offset, tuple(draw(st.integers(1, n - o)) for n, o in zip(shape, offset)))


def mask(box: Box) -> torch.Tensor:
    found = torch.zeros(box.global_shape, dtype=torch.bool)
    found[box.slices_in(Box.whole(box.name, box.global_shape))] = True
    return found


@given(st.data())
def test_intersection_and_difference_are_those_of_sets(data: st.DataObject) -> None:
    shape = data.draw(SHAPES)
    a, b = data.draw(boxes(shape)), data.draw(boxes(shape))
    common = a.intersect(b)
    both = mask(a) & mask(b)
    assert torch.equal(mask(common), both) if common else not both.any()
    rest = a.minus(b)
    assert sum(box.numel for box in rest) == a.numel - int(both.sum())
    assert all(not (mask(box) & mask(b)).any() for box in rest)


@given(st.data())
def test_a_flat_range_is_made_of_boxes_in_its_own_order(data: st.DataObject) -> None:
    box = data.draw(boxes(data.draw(SHAPES)))
    start = data.draw(st.integers(0, box.numel))
    stop = data.draw(st.integers(start, box.numel))
    whole = torch.arange(prod(box.global_shape)).view(box.global_shape)
    flat = whole[box.slices_in(Box.whole("w", box.global_shape))].reshape(-1)
    position = start
    for part, piece in box.flat_range(start, stop):
        assert part.start == position
        assert torch.equal(whole[piece.slices_in(Box.whole("w", box.global_shape))].reshape(-1), flat[part])
        position = part.stop
    assert position == stop


def test_a_range_of_a_matrix_is_at_most_three_boxes() -> None:
    box = Box.whole("w", (6, 5))
    found = [(part, piece.offset, piece.shape) for part, piece in box.flat_range(3, 23)]
    assert found == [
        (slice(3, 5), (0, 3), (1, 2)),
        (slice(5, 20), (1, 0), (3, 5)),
        (slice(20, 23), (4, 0), (1, 3)),
    ]


def test_uncovered_names_what_no_box_holds() -> None:
    whole = Box.whole("w", (4, 6))
    held = [Box("w", (4, 6), (0, 0), (4, 2)), Box("w", (4, 6), (0, 2), (2, 4))]
    (hole,) = uncovered(whole, held)
    assert str(hole) == "w[2:4, 2:6]"
    assert uncovered(whole, [*held, hole]) == []


def test_padding_rows_of_a_placement_belong_to_no_box() -> None:
    placement = Placement((8, 3), (PlacedBox(1, Box("w", (20, 3), (10, 0), (5, 3))),))
    covered = [part for part, _ in placement.blocks()]
    assert covered == [slice(3, 18)]
    assert list(placement.blocks(18, 24)) == []


def test_a_piece_of_another_row_length_than_the_parameter_is_a_bug() -> None:
    with pytest.raises(AssertionError):
        Placement((8, 3), (PlacedBox(0, Box.whole("w", (8, 4))),))
