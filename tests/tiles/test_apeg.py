import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triplex_deploy.errors import TilingError
from triplex_deploy.tiles import apeg_index

INT64 = np.iinfo(np.int64)


def dense_lookup(grid_rc, kernel):
    """Write spot numbers into a dense, padded grid and read the window around every spot."""
    reach = kernel // 2
    rc = grid_rc - grid_rc.min(axis=0) + reach
    dense = np.full(rc.max(axis=0) + reach + 1, -1)
    dense[rc[:, 0], rc[:, 1]] = np.arange(len(rc))
    windows = [dense[r - reach : r + reach + 1, c - reach : c + reach + 1].ravel() for r, c in rc]
    return np.array(windows)


def test_a_small_grid_with_a_hole():
    # rows 0..1, columns 0..2, nothing at (0, 1)
    grid_rc = np.array([[0, 0], [0, 2], [1, 0], [1, 1], [1, 2]])
    assert apeg_index(grid_rc).tolist() == [
        [-1, -1, -1, -1, 0, -1, -1, 2, 3],
        [-1, -1, -1, -1, 1, -1, 3, 4, -1],
        [-1, 0, -1, -1, 2, 3, -1, -1, -1],
        [0, -1, 1, 2, 3, 4, -1, -1, -1],
        [-1, 1, -1, 3, 4, -1, -1, -1, -1],
    ]


def test_the_order_of_the_spots_does_not_matter():
    grid_rc = np.array([[4, 7], [3, 7], [4, 6], [9, 9]])
    order = np.array([2, 0, 3, 1])
    straight, shuffled = apeg_index(grid_rc), apeg_index(grid_rc[order])
    back = np.where(shuffled >= 0, order[shuffled], -1)
    np.testing.assert_array_equal(back, straight[order])


@settings(deadline=None)
@given(
    grid=st.lists(
        st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=1, max_size=80, unique=True
    ),
    kernel=st.sampled_from([1, 3, 5, 7]),
    offset=st.sampled_from([0, -1000, 2**40]),
)
def test_scattered_grids_equal_the_dense_lookup(grid, kernel, offset):
    grid_rc = np.array(grid) + offset
    np.testing.assert_array_equal(apeg_index(grid_rc, kernel), dense_lookup(grid_rc, kernel))


def test_coordinates_at_the_ends_of_int64_do_not_wrap_around():
    grid_rc = np.array([[INT64.max, INT64.max], [INT64.min, INT64.min], [INT64.max, INT64.max - 1]])
    assert apeg_index(grid_rc).tolist() == [
        [-1, -1, -1, 2, 0, -1, -1, -1, -1],
        [-1, -1, -1, -1, 1, -1, -1, -1, -1],
        [-1, -1, -1, -1, 2, 0, -1, -1, -1],
    ]


def test_no_spots_give_an_empty_table():
    assert apeg_index(np.zeros((0, 2), np.int32)).shape == (0, 9)


def test_small_integer_types_are_widened():
    table = apeg_index(np.array([[127, 0], [126, 0]], np.int8))
    assert table.dtype == np.int64
    assert table[0].tolist() == [-1, 1, -1, -1, 0, -1, -1, -1, -1]


@pytest.mark.parametrize(
    ("grid_rc", "kernel", "message"),
    [
        ([[0, 0]], 2, "kernel=2: a window needs a center; use an odd number"),
        ([[0, 0]], 0, "kernel=0"),
        ([[0, 0]], -3, "kernel=-3"),
        ([[5, -2], [1, 1], [5, -2]], 3, r"spots 0 and 2 share row 5, column -2"),
        ([[0.0, 1.0]], 3, "grid_rc: dtype float64; round"),
        ([0, 1], 3, r"grid_rc: shape \(2,\)"),
        ([[0, 1, 2]], 3, r"grid_rc: shape \(1, 3\)"),
        (np.array([[2**63, 0]], np.uint64), 3, "9223372036854775808 does not fit in int64"),
    ],
)
def test_unfit_coordinates_are_refused(grid_rc, kernel, message):
    with pytest.raises(TilingError, match=message):
        apeg_index(grid_rc, kernel)
