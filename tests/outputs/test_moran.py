import numpy as np
import pytest

from triplex_deploy.outputs.moran import adjacent_spots, morans_i


def grid(rows: int, columns: int) -> np.ndarray:
    return np.stack(np.divmod(np.arange(rows * columns), columns), axis=1).astype(np.int64)


def test_a_checkerboard_is_minus_one_and_halves_are_high() -> None:
    grid_rc = grid(8, 8)
    checkers = grid_rc.sum(axis=1) % 2
    halves = grid_rc[:, 1] >= 4
    expression = np.stack([checkers, halves], axis=1).astype(np.float32)
    # halves: of 112 adjacent pairs, 8 differ: I = (104 - 8) / 112
    np.testing.assert_allclose(morans_i(expression, grid_rc), [-1, 96 / 112])


def test_agrees_with_the_weight_matrix_of_the_definition() -> None:
    rng = np.random.default_rng(0)
    grid_rc = grid(9, 7)[rng.permutation(63)[:40]]
    values = rng.normal(size=(40, 300)).astype(np.float32)
    weights = (np.abs(grid_rc[:, None] - grid_rc[None]).sum(axis=2) == 1).astype(float)
    z = values.astype(float) - values.astype(float).mean(axis=0)
    expected = 40 / weights.sum() * np.einsum("ig,ij,jg->g", z, weights, z) / (z**2).sum(axis=0)
    np.testing.assert_allclose(morans_i(values, grid_rc), expected, atol=1e-9)


def test_a_visium_lattice_has_six_adjacent_spots() -> None:
    rows, places = np.divmod(np.arange(25), 5)
    grid_rc = np.stack([rows, 2 * places + rows % 2], axis=1).astype(np.int64)
    neighbors = adjacent_spots(grid_rc)
    assert neighbors.shape == (25, 6)
    assert sorted(neighbors[12]) == [6, 7, 11, 13, 16, 17]


def test_undefined_where_nothing_varies_or_nothing_is_adjacent() -> None:
    values = np.array([[1, 0, np.nan], [1, 1, 0]], np.float32)
    together, apart = np.array([[0, 0], [0, 1]]), np.array([[0, 0], [5, 5]])
    np.testing.assert_array_equal(morans_i(values, together), [np.nan, -1, np.nan])
    assert np.isnan(morans_i(values, apart)).all()


@pytest.mark.parametrize("count", [0, 1])
def test_few_spots_are_no_error(count: int) -> None:
    values, grid_rc = np.ones((count, 2), np.float32), np.zeros((count, 2), np.int64)
    assert np.isnan(morans_i(values, grid_rc)).all()
