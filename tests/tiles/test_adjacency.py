"""The four nearest spots: against the rule written out, at ties, and at the reach."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triplex_deploy.errors import TilingError
from triplex_deploy.tiles.spot_tables import adjacency_index


def written_out(grid):
    """Sort all other spots by (distance, index), take four, keep those no further than 2."""
    table = np.full((len(grid), 4), -1)
    for i, (row, column) in enumerate(grid):
        others = sorted(
            (np.hypot(r - row, c - column), j) for j, (r, c) in enumerate(grid) if j != i
        )
        near = [j for distance, j in others[:4] if distance <= 2.0]
        table[i, : len(near)] = near
    return table


@settings(deadline=None)
@given(
    grid=st.lists(
        st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=1, max_size=60, unique=True
    ),
    offset=st.sampled_from([0, -1000, 2**40]),
)
def test_scattered_spots_have_the_neighbors_of_the_rule(grid, offset):
    table = adjacency_index(np.array(grid) + offset)
    np.testing.assert_array_equal(table, written_out(grid))


def test_a_square_of_spots_by_hand():
    """Spots 0 to 8 row by row: among equally far spots the smaller index comes first."""
    grid_rc = np.stack(np.divmod(np.arange(9), 3), axis=1)
    table = adjacency_index(grid_rc)
    assert table.dtype == np.int64
    assert table.tolist() == [
        [1, 3, 4, 2],
        [0, 2, 4, 3],
        [1, 5, 4, 0],
        [0, 4, 6, 1],
        [1, 3, 5, 7],
        [2, 4, 8, 1],
        [3, 7, 4, 0],
        [4, 6, 8, 3],
        [5, 7, 4, 2],
    ]


def test_two_steps_are_near_and_a_knights_move_is_not():
    assert adjacency_index(np.array([[0, 0], [0, 2], [2, 1]])).tolist() == [
        [1, -1, -1, -1],
        [0, -1, -1, -1],
        [-1, -1, -1, -1],
    ]


def test_a_neighbor_need_not_be_one_in_return():
    """Spot 5 lists spot 0, two rows away, which itself has four nearer spots."""
    grid_rc = np.array([[5, 5], [4, 5], [6, 5], [5, 4], [5, 6], [7, 5]])
    table = adjacency_index(grid_rc)
    assert 5 not in table[0]
    assert 0 in table[5]


def test_of_a_hexagonal_lattice_the_spots_of_the_own_row_are_left_out():
    """Columns of a row differ by 2 on a hexagonal array, so four diagonal spots are nearer."""
    grid_rc = np.array([[1, 1], [1, 3], [0, 2], [2, 2], [0, 4], [2, 4], [1, 5]])
    assert adjacency_index(grid_rc)[1].tolist() == [2, 3, 4, 5]


def test_one_spot_has_no_neighbor():
    assert adjacency_index(np.array([[7, 9]])).tolist() == [[-1, -1, -1, -1]]


def test_no_spots_give_an_empty_table():
    assert adjacency_index(np.zeros((0, 2), np.int64)).shape == (0, 4)


def test_a_table_of_all_distances_is_not_made():
    """All distances would take 32 GB."""
    side = 250
    grid_rc = np.stack(np.divmod(np.arange(side * side), side), axis=1)
    inside = 3 * side + 7
    expected = [inside - side, inside - 1, inside + 1, inside + side]
    assert adjacency_index(grid_rc)[inside].tolist() == expected


@pytest.mark.parametrize(
    ("grid_rc", "message"),
    [
        ([[5, -2], [1, 1], [5, -2]], "spots 0 and 2 share row 5, column -2"),
        ([[0.0, 1.0]], "grid_rc: dtype float64; round"),
        ([[0, 1, 2]], r"grid_rc: shape \(1, 3\)"),
    ],
)
def test_unfit_coordinates_are_refused(grid_rc, message):
    with pytest.raises(TilingError, match=message):
        adjacency_index(np.array(grid_rc))
