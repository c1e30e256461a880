import numpy as np
import pytest

from triplex_deploy.errors import TilingError
from triplex_deploy.tiles.kernels import COORDINATE_LIMIT, neighbor_table


def centers(*xy):
    return np.array(xy, np.int64).reshape(-1, 2)


def test_origins_run_row_major_in_steps_of_a_tile():
    origin_xy, _ = neighbor_table(centers((1000, 2000)), (4000, 4000))
    assert origin_xy[0, :6].tolist() == [
        [440, 1440],
        [664, 1440],
        [888, 1440],
        [1112, 1440],
        [1336, 1440],
        [440, 1664],
    ]
    assert origin_xy[0, 12].tolist() == [888, 1888]


@pytest.mark.parametrize(
    ("center", "outside"),
    [
        ((560, 560), set()),
        ((559, 560), {0, 5, 10, 15, 20}),
        ((560, 559), {0, 1, 2, 3, 4}),
        ((1440, 1440), set()),
        ((1441, 1440), {4, 9, 14, 19, 24}),
        ((1440, 1441), {20, 21, 22, 23, 24}),
        ((336, 1000), {0, 5, 10, 15, 20}),
        ((335, 1000), {0, 1, 5, 6, 10, 11, 15, 16, 20, 21}),
    ],
)
def test_a_tile_that_touches_the_border_is_inside_and_one_pixel_further_is_not(center, outside):
    _, mask = neighbor_table(centers(center), (2000, 2000))
    assert set(np.flatnonzero(~mask[0])) == outside


def test_the_center_row_and_column_are_never_masked_by_themselves():
    _, mask = neighbor_table(centers((0, 0)), (150, 150))
    assert np.flatnonzero(mask[0]).tolist() == [12]
    _, mask = neighbor_table(centers((600, 0)), (1200, 150))
    assert np.flatnonzero(mask[0]).tolist() == [10, 11, 12, 13, 14]


@pytest.mark.parametrize(
    ("name", "size_wh"), [("900x700", (900, 700)), ("2000x1500", (2000, 1500))]
)
def test_masks_equal_the_official_tables(shared_data, name, size_wh):
    tables = np.load(shared_data / "goldens" / "data" / "masking_tables.npz")
    origin_xy, mask = neighbor_table(tables[f"points_xy_{name}"], size_wh)
    np.testing.assert_array_equal(mask, tables[f"mask_{name}"].astype(bool))
    inside = (origin_xy >= 0).all(axis=2) & (origin_xy + 224 <= size_wh).all(axis=2)
    assert (mask[inside]).all()


@pytest.mark.parametrize(
    ("center_xy", "size_wh", "tile_px", "message"),
    [
        (centers((0, 0)).astype(np.float64), (9, 9), 2, "center_xy: dtype float64"),
        (np.zeros(2, np.int64), (9, 9), 2, "center_xy: shape"),
        (np.zeros((2, 4), np.int64)[:, ::2], (9, 9), 2, "center_xy: strides"),
        (centers((0, COORDINATE_LIMIT + 1)), (9, 9), 2, "center_xy: pixel coordinates beyond"),
        (centers((0, 0)), (-1, 9), 2, "size_wh"),
        (centers((0, 0)), (9, COORDINATE_LIMIT + 1), 2, "size_wh"),
        (centers((0, 0)), (9, 9), 0, "tile_px=0"),
    ],
)
def test_unfit_arguments_are_refused(center_xy, size_wh, tile_px, message):
    with pytest.raises(TilingError, match=message):
        neighbor_table(center_xy, size_wh, tile_px)
