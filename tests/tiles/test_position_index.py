"""The neighbor tables of the position encodings give the results of their convolutions."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from triplex_deploy.errors import TilingError
from triplex_deploy.tiles.apeg import apeg_index, position_index


def _reshape_and_convolve(
    values: NDArray[np.float64], weight: NDArray[np.float64]
) -> NDArray[np.float64]:
    """PEG as published: zeros appended up to a square, 3 x 3 correlation, padding dropped."""
    count = len(values)
    side = math.ceil(math.sqrt(count))
    square = np.zeros(side * side)
    square[:count] = values
    padded = np.pad(square.reshape(side, side), 1)
    result = np.zeros((side, side))
    for row in range(3):
        for column in range(3):
            result += weight[row, column] * padded[row : row + side, column : column + side]
    return result.ravel()[:count]


def _gather(
    values: NDArray[np.float64], weight: NDArray[np.float64], table: NDArray[np.int64]
) -> NDArray[np.float64]:
    return np.where(table >= 0, values[table], 0.0) @ weight.ravel()


@pytest.mark.parametrize("count", [1, 2, 37, 49, 50])
def test_peg_equals_reshaping_and_convolving(count: int) -> None:
    rng = np.random.default_rng(count)
    cells = rng.choice(900, count, replace=False)
    grid_rc = np.stack(np.divmod(cells, 30), axis=1).astype(np.int64)  # in no order
    values, weight = rng.standard_normal(count), rng.standard_normal((3, 3))
    order = np.lexsort((grid_rc[:, 1], grid_rc[:, 0]))
    wanted = np.empty(count)
    wanted[order] = _reshape_and_convolve(values[order], weight)
    found = _gather(values, weight, position_index(grid_rc, "peg"))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)


def test_peg_of_five_spots_by_hand() -> None:
    """The spots fill a 3 x 3 square as 0 1 2 / 3 4; holes of the array do not matter."""
    grid_rc = np.array([[0, 0], [0, 9], [5, 1], [5, 2], [7, 0]])
    assert position_index(grid_rc, "peg").tolist() == [
        [-1, -1, -1, -1, 0, 1, -1, 3, 4],
        [-1, -1, -1, 0, 1, 2, 3, 4, -1],
        [-1, -1, -1, 1, 2, -1, 4, -1, -1],
        [-1, 0, 1, -1, 3, 4, -1, -1, -1],
        [0, 1, 2, 3, 4, -1, -1, -1, -1],
    ]


def test_apeg_is_the_table_of_the_array() -> None:
    grid_rc = np.array([[0, 0], [0, 2], [1, 1], [4, 4]])
    for kernel in (3, 5):
        np.testing.assert_array_equal(
            position_index(grid_rc, "apeg", kernel), apeg_index(grid_rc, kernel)
        )


def test_without_a_position_encoding_no_spot_has_neighbors() -> None:
    assert position_index(np.array([[0, 0], [0, 1]]), "none").tolist() == [[-1] * 9] * 2
    assert position_index(np.zeros((3, 2), np.int64), "none", 5).shape == (3, 25)


def test_peg_refuses_what_the_array_refuses() -> None:
    with pytest.raises(TilingError, match=r"round array coordinates"):
        position_index([[0.5, 1.0]], "peg")


def test_no_spots_have_an_empty_peg_table() -> None:
    assert position_index(np.zeros((0, 2), np.int64), "peg").shape == (0, 9)
