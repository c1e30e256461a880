import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triplex_deploy.errors import TilingError
from triplex_deploy.tiles import plan_tiles
from triplex_deploy.tiles.plan import CENTER_LIMIT, TileIndex


def grid_centers(columns, rows, pitch=224, start=112):
    x, y = np.meshgrid(np.arange(columns), np.arange(rows))
    return np.stack([x.ravel(), y.ravel()], axis=1) * pitch + start


def plan_reference(center_xy, size_wh):
    """Return the origin of every unmasked neighbor, spot by spot."""
    origins = {}
    for spot, (x, y) in enumerate(center_xy):
        for neighbor in range(25):
            row, column = divmod(neighbor, 5)
            left, top = x - 560 + 224 * column, y - 560 + 224 * row
            row_inside = row == 2 or (top >= 0 and top + 224 <= size_wh[1])
            column_inside = column == 2 or (left >= 0 and left + 224 <= size_wh[0])
            if row_inside and column_inside:
                origins[spot, neighbor] = (left, top)
    return origins


def test_a_contiguous_grid_that_fills_the_slide_needs_one_tile_per_spot():
    plan = plan_tiles(grid_centers(9, 7), (9 * 224, 7 * 224))
    assert len(plan.origins_xy) == 63
    assert sorted(plan.spot_tile) == list(range(63))


def test_a_contiguous_grid_inside_the_slide_needs_the_union_of_its_neighborhoods():
    plan = plan_tiles(grid_centers(6, 4, start=1000), (9000, 9000))
    assert len(plan.origins_xy) == (6 + 4) * (4 + 4)
    assert plan.neighbor_mask.all()


def test_neighbors_on_a_grid_share_each_others_tiles():
    plan = plan_tiles(grid_centers(5, 5), (1120, 1120))
    assert plan.neighbor_tile[12].tolist() == plan.spot_tile.tolist()
    assert plan.neighbor_tile[0, 13] == plan.spot_tile[1]
    assert plan.neighbor_tile[0, 17] == plan.spot_tile[5]


def test_masked_neighbors_are_not_planned():
    plan = plan_tiles(np.array([[112, 112]]), (224, 224))
    assert plan.origins_xy.tolist() == [[0, 0]]
    assert plan.neighbor_tile[0].tolist() == [-1] * 12 + [0] + [-1] * 12
    assert plan.spot_tile.tolist() == [0]


def test_a_spot_at_the_border_keeps_its_own_tile_outside_the_slide():
    plan = plan_tiles(np.array([[0, 0], [0, 600]]), (2000, 2000))
    assert plan.origins_xy[plan.spot_tile].tolist() == [[-112, -112], [-112, 488]]


def test_tiles_are_in_bands_from_top_to_bottom_and_left_to_right_in_each():
    plan = plan_tiles(np.array([[5000, 5000], [900, 900], [3000, 930]]), (9000, 9000))
    bands = plan.origins_xy[:, 1] // 2048
    assert (np.diff(bands) >= 0).all()
    assert (np.diff(plan.origins_xy[:, 0])[np.diff(bands) == 0] >= 0).all()


def test_no_spots_need_no_tiles():
    plan = plan_tiles(np.zeros((0, 2), np.int64), (100, 100))
    assert plan.origins_xy.shape == (0, 2)
    assert plan.neighbor_tile.shape == (0, 25)
    assert plan.spot_tile.shape == (0,)


coordinate = st.integers(-300, 2500) | st.integers(-CENTER_LIMIT, CENTER_LIMIT)


@settings(deadline=None, max_examples=60)
@given(
    centers=st.lists(st.tuples(coordinate, coordinate), min_size=1, max_size=8),
    size_wh=st.tuples(st.integers(1, 2600), st.integers(1, 2600)),
)
def test_the_plan_equals_the_spot_by_spot_reference(centers, size_wh):
    plan = plan_tiles(np.array(centers, np.int64), size_wh)
    expected = plan_reference(centers, size_wh)
    assert len(np.unique(plan.origins_xy, axis=0)) == len(plan.origins_xy)
    assert {tuple(origin) for origin in plan.origins_xy.tolist()} == set(expected.values())
    np.testing.assert_array_equal(plan.neighbor_mask, plan.neighbor_tile >= 0)
    for spot, neighbor in np.ndindex(len(centers), 25):
        tile = plan.neighbor_tile[spot, neighbor]
        planned = tuple(plan.origins_xy[tile].tolist()) if tile >= 0 else None
        assert planned == expected.get((spot, neighbor))
    np.testing.assert_array_equal(plan.spot_tile, plan.neighbor_tile[:, 12])


@pytest.mark.parametrize("far", [CENTER_LIMIT + 1, -CENTER_LIMIT - 1])
def test_absurdly_distant_centers_are_refused(far):
    with pytest.raises(TilingError, match="check the spots' frame"):
        plan_tiles(np.array([[0, far]]), (100, 100))


def test_centers_that_are_not_integers_are_refused():
    with pytest.raises(TilingError, match="center_xy: dtype float64; convert to int64"):
        plan_tiles(np.zeros((1, 2)), (100, 100))  # type: ignore[arg-type]


def test_tiles_are_found_by_their_origin() -> None:
    index = TileIndex(np.array([[5, 7], [-112, 7], [5, -3]]))
    wanted = np.array([[5, -3], [7, 5], [-112, 7], [5, 7]])
    assert index.find(wanted).tolist() == [2, -1, 1, 0]
    assert TileIndex(np.zeros((0, 2), np.int64)).find(wanted).tolist() == [-1] * 4
