"""Neighbor tiles from one grid of the slide: which tiles they are, masks, and how many."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from triplex_deploy.contract import Neighborhood
from triplex_deploy.errors import ConfigError
from triplex_deploy.spots import read_spots
from triplex_deploy.spots.layouts import PITCH_UM
from triplex_deploy.tiles import TilePlan, plan_tiles

EXACT = Neighborhood()
Points = NDArray[np.int64]


def shared(stride: int) -> Neighborhood:
    return Neighborhood("shared", stride)


def points(*xy: tuple[int, int]) -> Points:
    return np.array(xy, np.int64).reshape(-1, 2)


def nearest(value: int, stride: int) -> int:
    """The multiple of ``stride`` nearest to ``value``, the larger of two."""
    below = value - value % stride
    return below if value - below < below + stride - value else below + stride


def reference(center_xy: Points, size_wh: tuple[int, int], stride: int) -> list[dict[int, object]]:
    """Return the origin of every neighbor that is not masked, spot by spot and axis by axis."""
    found = []
    for center in center_xy.tolist():
        places = [
            [nearest(center[axis] - 560 + 224 * step, stride) for step in range(5)]
            for axis in (0, 1)
        ]
        inside = [
            [step == 2 or (at >= 0 and at + 224 <= size_wh[axis]) for step, at in enumerate(line)]
            for axis, line in enumerate(places)
        ]
        origins: dict[int, object] = {
            5 * row + column: (places[0][column], places[1][row])
            for row in range(5)
            for column in range(5)
            if inside[0][column] and inside[1][row]
        }
        origins[12] = (center[0] - 112, center[1] - 112)
        found.append(origins)
    return found


def origins_of(plan: TilePlan, spot: int) -> dict[int, object]:
    """Return the origin of every neighbor of a spot that is not masked."""
    tiles = plan.neighbor_tile[spot]
    shown = np.flatnonzero(tiles >= 0).tolist()
    return {n: tuple(plan.origins_xy[tiles[n]].tolist()) for n in shown}


def assert_same(found: TilePlan, wanted: TilePlan) -> None:
    for name in ("origins_xy", "neighbor_tile", "neighbor_mask", "spot_tile"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))


coordinate = st.integers(-100, 2600)
centers = st.lists(st.tuples(coordinate, coordinate), min_size=1, max_size=8)
sizes = st.tuples(st.integers(1, 2600), st.integers(1, 2600))


@settings(deadline=None, max_examples=60)
@given(centers=centers, size_wh=sizes, stride=st.integers(1, 224))
def test_the_plan_equals_the_reference_of_one_spot_and_axis_at_a_time(
    centers: list[tuple[int, int]], size_wh: tuple[int, int], stride: int
) -> None:
    plan = plan_tiles(points(*centers), size_wh, shared(stride))
    assert [origins_of(plan, n) for n in range(len(centers))] == reference(
        points(*centers), size_wh, stride
    )
    assert len(np.unique(plan.origins_xy, axis=0)) == len(plan.origins_xy)
    np.testing.assert_array_equal(plan.neighbor_mask, plan.neighbor_tile >= 0)
    np.testing.assert_array_equal(plan.spot_tile, plan.neighbor_tile[:, 12])


@settings(deadline=None, max_examples=30)
@given(centers=centers, size_wh=sizes)
def test_a_grid_of_every_pixel_is_exact(
    centers: list[tuple[int, int]], size_wh: tuple[int, int]
) -> None:
    center_xy = points(*centers)
    assert_same(plan_tiles(center_xy, size_wh, shared(1)), plan_tiles(center_xy, size_wh))


@pytest.mark.parametrize("stride", [224, 112, 32])
def test_spots_on_the_grid_have_exact_neighbors(stride: int) -> None:
    rng = np.random.default_rng(3)
    on_grid = 112 + stride * rng.integers(0, 2000 // stride, (40, 2))
    size_wh = (2111, 1900)
    exact = plan_tiles(on_grid, size_wh)
    assert_same(plan_tiles(on_grid, size_wh, shared(stride)), exact)
    assert not exact.neighbor_mask.all()


def test_neighbors_differ_by_half_a_stride_at_most_and_the_target_not_at_all() -> None:
    center_xy = np.random.default_rng(5).integers(600, 5000, (200, 2))
    size_wh = (6000, 6000)
    exact, moved = plan_tiles(center_xy, size_wh), plan_tiles(center_xy, size_wh, shared(100))
    offset = moved.origins_xy[moved.neighbor_tile] - exact.origins_xy[exact.neighbor_tile]
    assert np.abs(offset).max() == 50
    assert (offset[:, 12] == 0).all()
    around = np.delete(moved.origins_xy[moved.neighbor_tile], 12, axis=1)
    assert (around % 100 == 0).all()


def test_of_two_equally_near_places_the_right_and_lower_is_taken() -> None:
    plan = plan_tiles(points((1008, 1008)), (4000, 4000), shared(224))  # 448 - 560 + 560 = 2 x 224
    assert origins_of(plan, 0)[0] == (448, 448)
    plan = plan_tiles(points((1120, 1120)), (4000, 4000), shared(224))  # begins at 560 = 2.5 x 224
    assert origins_of(plan, 0)[0] == (672, 672)
    plan = plan_tiles(points((0, 0)), (4000, 4000), shared(224))  # its row begins at -112
    assert origins_of(plan, 0)[13] == (224, 0)


def test_order_and_company_of_spots_do_not_matter() -> None:
    rng = np.random.default_rng(8)
    center_xy, size_wh = rng.integers(0, 2500, (30, 2)), (2500, 2400)
    order = rng.permutation(30)
    plan = plan_tiles(center_xy, size_wh, shared(224))
    again = plan_tiles(center_xy[order], size_wh, shared(224))
    np.testing.assert_array_equal(again.origins_xy, plan.origins_xy)
    np.testing.assert_array_equal(again.neighbor_tile, plan.neighbor_tile[order])
    for spot in range(30):
        alone = plan_tiles(center_xy[spot : spot + 1], size_wh, shared(224))
        assert origins_of(alone, 0) == origins_of(plan, spot)


@pytest.mark.parametrize(
    ("center", "masked"),
    [
        ((671, 671), set()),  # 111 becomes 0, just inside
        ((447, 671), {0, 5, 10, 15, 20}),  # -113 becomes -224
        ((448, 671), set()),  # -112 becomes 0, though exact it would be masked
        ((1343, 671), set()),  # 1679 becomes 1568, which ends where the slide does
        ((1344, 671), {4, 9, 14, 19, 24}),  # 1680 becomes 1792
    ],
)
def test_a_tile_is_masked_where_it_is_taken_not_where_it_would_be_exact(
    center: tuple[int, int], masked: set[int]
) -> None:
    plan = plan_tiles(points(center), (1792, 4000), shared(224))
    assert set(np.flatnonzero(~plan.neighbor_mask[0]).tolist()) == masked


def test_the_central_row_and_column_are_never_masked_by_themselves() -> None:
    plan = plan_tiles(points((1000, 10)), (4000, 150), shared(224))
    assert np.flatnonzero(plan.neighbor_mask[0]).tolist() == [10, 11, 12, 13, 14]
    assert origins_of(plan, 0)[10] == (448, 0)
    bottom = plan_tiles(points((1000, 1230)), (4000, 1240), shared(224))
    assert bottom.neighbor_mask[0, 10:15].all()
    assert origins_of(bottom, 0)[10] == (448, 1120)  # its last rows are outside, and zero


def tiles_needed(center_xy: Points, stride: int) -> int:
    """Count the tiles of spots far from the border: those of the grid, and target tiles."""
    found = reference(center_xy, (10**6, 10**6), stride)
    return len({origin for origins in found for origin in origins.values()})


def test_spots_of_a_visium_lattice_share_their_neighbors() -> None:
    """2,000 spots, 100 um apart in rows of 45, at 0.5 um per pixel."""
    row, place = np.divmod(np.arange(2000), 45)
    step_px = PITCH_UM / 0.5
    x, y = (place + row % 2 / 2) * step_px, row * step_px * 3**0.5 / 2
    center_xy = 1000 + np.floor(np.stack([x, y], axis=1)).astype(np.int64)
    size_wh = (20_000, 20_000)
    exact = plan_tiles(center_xy, size_wh)
    for stride, fewer in ((224, 10), (112, 5)):
        plan = plan_tiles(center_xy, size_wh, shared(stride))
        assert len(plan.origins_xy) == tiles_needed(center_xy, stride)
        assert len(plan.origins_xy) * fewer < len(exact.origins_xy)


@pytest.mark.parametrize("section", ["C2", "C3"])
def test_a_measured_array_needs_a_fraction_of_the_tiles(shared_data, section: str) -> None:
    path = shared_data / "her2st" / "ST-spotfiles" / f"{section}_selection.tsv"
    if not path.is_file():
        pytest.skip("her2st's spots are absent")
    center_xy = np.floor(read_spots(path).level0_xy + 1e-6).astype(np.int64)
    size_wh = (20_000, 20_000)  # no tile is masked
    exact = plan_tiles(center_xy, size_wh)
    assert len(exact.origins_xy) == 25 * len(center_xy)  # nothing is shared
    for stride, fewer in ((224, 6.0), (112, 2.5)):
        plan = plan_tiles(center_xy, size_wh, shared(stride))
        assert len(plan.origins_xy) == tiles_needed(center_xy, stride)
        assert len(plan.origins_xy) * fewer < len(exact.origins_xy)


@pytest.mark.parametrize(
    ("kind", "stride", "message"),
    [
        ("near", 0, "neighborhood='near': use exact or shared"),
        ("exact", 224, "neighborhood_stride=224: belongs to a shared neighborhood"),
        ("shared", 0, "neighborhood_stride=0: use 1 to 224"),
        ("shared", 225, "neighborhood_stride=225: use 1 to 224"),
        ("shared", -1, "neighborhood_stride=-1: use 1 to 224"),
    ],
)
def test_contradictory_settings_are_refused(kind: str, stride: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Neighborhood(kind, stride)


def test_files_record_only_what_earlier_versions_did_not_know() -> None:
    assert EXACT.recorded() == {}
    assert Neighborhood.of_record({}) == EXACT
    assert Neighborhood.of_record(shared(112).recorded()) == shared(112)
