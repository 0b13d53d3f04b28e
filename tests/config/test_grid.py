"""Ranks on named axes: every rank once, groups tile the world, and megatron-core means the same ones."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megabiomed.config.grid import AXES, SPANS, Grid, PipelineParts, Span

GRIDS = st.builds(lambda pp, dp, tp: Grid.of(pp=pp, dp=dp, tp=tp), *[st.integers(1, 4)] * 3)
SPAN = st.sampled_from(sorted(SPANS))


@given(GRIDS)
def test_every_rank_has_its_own_coordinates_and_is_found_by_them(grid: Grid) -> None:
    places = [tuple(grid.coordinate(rank, axis) for axis in AXES) for rank in range(len(grid))]
    assert len(set(places)) == len(grid)
    assert [grid.rank(**dict(zip(AXES, place))) for place in places] == list(range(len(grid)))


@given(GRIDS, SPAN)
def test_groups_along_a_span_tile_the_world_in_the_order_of_their_places(grid: Grid, span: Span) -> None:
    groups = grid.groups(span)
    assert sorted(rank for group in groups for rank in group) == list(range(len(grid)))
    for group in groups:
        assert [grid.coordinate(rank, span) for rank in group] == list(range(grid.size(span)))
        assert all(grid.group(rank, span) == group for rank in group)


@settings(deadline=None)
@given(GRIDS)
def test_megatron_core_makes_the_same_groups(grid: Grid) -> None:
    from megatron.core.parallel_state import RankGenerator

    sizes = {axis: grid.size(axis) for axis in AXES}
    theirs = RankGenerator(**sizes, ep=1, cp=1, order="tp-cp-ep-dp-pp")
    names: dict[Span, str] = {"tp": "tp", "dp": "dp", "pp": "pp", "replicas": "dp", "shards": "dp-cp", "model": "tp-pp"}
    for span, name in names.items():
        assert sorted(theirs.get_ranks(name)) == sorted(grid.groups(span)), span


def test_tensor_ranks_are_neighbours_and_stages_far_apart() -> None:
    grid = Grid.of(pp=2, dp=2, tp=2)
    assert grid.group(5, "tp") == [4, 5]
    assert grid.group(5, "replicas") == [5, 7]
    assert grid.group(5, "pp") == [1, 5]
    assert grid.place(5) == "pp 1/2 x dp 0/2 x tp 1/2"


def test_a_rank_after_the_grid_has_no_place_in_it() -> None:
    grid = Grid.of(tp=2)
    assert 2 not in grid
    with pytest.raises(AssertionError, match="rank 2 of pp 1 x dp 1 x tp 2"):
        grid.coordinate(2, "tp")


@given(st.integers(1, 6), st.integers(1, 4))
def test_every_part_of_the_pipeline_is_one_chunk_of_one_stage(stages: int, chunks: int) -> None:
    parts = PipelineParts(stages, chunks)
    held = [parts.of_stage(stage) for stage in range(stages)]
    assert sorted(part for mine in held for part in mine) == list(range(len(parts)))
    assert all(parts.stage(part) == stage for stage, mine in enumerate(held) for part in mine)
    assert all(mine == sorted(mine) for mine in held)
