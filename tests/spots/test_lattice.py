"""Array coordinates recovered from pixel positions."""

from pathlib import Path

import numpy as np
import pytest

from triplex_deploy.errors import SpotsError
from triplex_deploy.spots import read_spots
from triplex_deploy.spots.lattice import infer_lattice


def hexagon(rows: int, columns: int) -> np.ndarray:
    """Space Ranger's (row, column) pairs."""
    return np.array([(r, 2 * c + r % 2) for r in range(rows) for c in range(columns)])


def hex_xy(grid_rc: np.ndarray, pitch: float) -> np.ndarray:
    return np.stack([grid_rc[:, 1] * pitch / 2, grid_rc[:, 0] * pitch * 3**0.5 / 2], axis=1)


def square(rows: int, columns: int) -> np.ndarray:
    return np.argwhere(np.ones((rows, columns)))


def turned(xy: np.ndarray, degrees: float) -> np.ndarray:
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return xy @ turn


def jittered(xy: np.ndarray, sigma: float) -> np.ndarray:
    return xy + np.random.default_rng(3).normal(0, sigma, xy.shape)


def drifting(xy: np.ndarray) -> np.ndarray:
    """The spacing grows by a tenth and rows sink, so a rigid fit would be off by steps."""
    return np.stack([xy[:, 0] + xy[:, 0] ** 2 * 5e-6, xy[:, 1] + xy[:, 0] * 0.08], axis=1)


@pytest.mark.parametrize("degrees", [-20, -3, 0, 3, 20])
def test_square_lattice(degrees: float) -> None:
    grid_rc = square(12, 30)
    xy = jittered(turned(grid_rc[:, ::-1] * 290.0, degrees), 25) + 1000
    lattice = infer_lattice(xy)
    assert lattice.kind == "square"
    assert np.array_equal(lattice.grid_rc, grid_rc)


def test_drift_does_not_add_up() -> None:
    grid_rc = square(30, 35)
    lattice = infer_lattice(jittered(drifting(grid_rc[:, ::-1] * 290.0), 12))
    assert np.array_equal(lattice.grid_rc, grid_rc)


@pytest.mark.parametrize("degrees", [-12, 0, 5])
def test_hexagonal_lattice_follows_space_ranger(degrees: float) -> None:
    grid_rc = hexagon(20, 15)
    lattice = infer_lattice(jittered(turned(hex_xy(grid_rc, 137.0), degrees), 6))
    assert lattice.kind == "hexagonal"
    assert np.array_equal(lattice.grid_rc, grid_rc)


def test_upright_rows_count_as_turned_not_mirrored() -> None:
    grid_rc = hexagon(6, 5)
    xy = hex_xy(grid_rc, 100.0)
    lattice = infer_lattice(np.stack([-xy[:, 1], xy[:, 0]], axis=1))  # turned by 90 degrees
    assert np.array_equal(lattice.grid_rc, grid_rc)


def test_hexagonal_parity_survives_a_missing_corner() -> None:
    grid_rc = hexagon(6, 6)
    kept = (grid_rc[:, 0] > 0) & (grid_rc[:, 1] > 1)
    lattice = infer_lattice(hex_xy(grid_rc[kept], 100.0))
    assert set((lattice.grid_rc.sum(axis=1) % 2).tolist()) == {0}
    shift = lattice.grid_rc - grid_rc[kept]
    assert len(np.unique(shift, axis=0)) == 1


def test_separate_groups_are_placed_on_the_common_lattice() -> None:
    grid_rc = square(20, 20)
    kept = (grid_rc[:, 1] < 7) | (grid_rc[:, 1] > 11)
    lattice = infer_lattice(jittered(grid_rc[kept][:, ::-1] * 290.0, 15))
    assert np.array_equal(lattice.grid_rc, grid_rc[kept])


def test_group_off_the_lattice_is_refused() -> None:
    xy = square(8, 8)[:, ::-1] * 100.0
    with pytest.raises(SpotsError, match=r"4 spots lie apart and off the lattice .* array_row"):
        infer_lattice(np.concatenate([xy, square(2, 2) * 100.0 + [1550, 40]]))


def test_scattered_spots_are_refused() -> None:
    xy = np.random.default_rng(0).uniform(0, 1000, (200, 2))
    with pytest.raises(SpotsError, match="no clear square or hexagonal lattice; add the columns"):
        infer_lattice(xy)


@pytest.mark.parametrize(
    "grid_rc",
    [
        [[0, 0], [0, 1]],
        [[1, 0], [0, 0]],
        [[0, 2], [0, 0], [0, 1], [0, 5]],
        [[row, 0] for row in range(30)],
        [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1]],
        [[0, 0], [0, 1], [1, 1]],
        [[0, 1], [1, 0], [1, 1], [1, 2], [2, 1]],
        [[0, 0], [0, 1], [1, 1], [1, 2], [2, 2], [2, 3]],
        [[0, 0], [1, 0], [2, 0], [2, 1], [2, 2], [2, 3]],
    ],
)
@pytest.mark.parametrize("degrees", [-5, 0, 3])
def test_few_spots_of_a_square_array(grid_rc: list[list[int]], degrees: float) -> None:
    places = np.array(grid_rc)
    lattice = infer_lattice(jittered(turned(places[:, ::-1] * 290.0, degrees), 8) + 1000)
    assert lattice.kind == "square"
    assert np.array_equal(lattice.grid_rc, places)


def test_three_neighbors_of_a_hexagonal_array() -> None:
    grid_rc = np.array([[0, 0], [0, 2], [1, 1]])
    lattice = infer_lattice(hex_xy(grid_rc, 100.0))
    assert lattice.kind == "hexagonal"
    assert np.array_equal(lattice.grid_rc, grid_rc)


@pytest.mark.parametrize(
    "xy",
    [
        [[0, 0], [100, 100]],
        [[0, 0], [50, 87], [100, 174]],
        [[0, 0], [100, 0], [140, 2], [300, 0]],
        [[0, 0], [100, 0], [190, 95]],
    ],
)
def test_too_few_spots_to_tell_are_told_how_many(xy: list[list[float]]) -> None:
    with pytest.raises(SpotsError, match="give at least 4 neighbors that are not on one line, or"):
        infer_lattice(np.array(xy, np.float64))


def test_spots_on_one_place_are_refused() -> None:
    xy = square(5, 5)[:, ::-1] * 100.0
    with pytest.raises(SpotsError, match=r"array_row|contradicts"):
        infer_lattice(np.concatenate([xy, [[203.0, 201.0]]]))


@pytest.mark.parametrize("section", ["C2", "C3", "C4", "C5"])
def test_her2st_up_to_translation(section: str, shared_data: Path) -> None:
    truth = read_spots(shared_data / f"her2st/ST-spotfiles/{section}_selection.tsv")
    lattice = infer_lattice(truth.level0_xy)
    assert lattice.kind == "square"
    assert len(np.unique(lattice.grid_rc - truth.grid_rc, axis=0)) == 1


def test_whole_visium_array(shared_data: Path) -> None:
    path = shared_data / "visium/scanpy_visium_1.0.0/spatial/tissue_positions_list.csv"
    rows = np.array([line.split(",")[1:] for line in path.read_text().splitlines()], np.int64)
    assert len(rows) == 4992
    lattice = infer_lattice(rows[:, [4, 3]].astype(np.float64))
    assert np.array_equal(lattice.grid_rc, rows[:, [1, 2]])


def test_squidpy_crop_with_gaps(shared_data: Path) -> None:
    """The file has no array coordinates, but a plane must map the inferred ones to the pixels."""
    xy = read_spots(shared_data / "visium/squidpy_test/test_data.h5ad").level0_xy
    lattice = infer_lattice(xy)
    assert lattice.kind == "hexagonal"
    design = np.column_stack([lattice.grid_rc, np.ones(len(xy))])
    fit = np.linalg.lstsq(design, xy)[0]
    assert np.abs(design @ fit - xy).max() < 2  # pixels, of 137 between spots
    assert np.linalg.norm(fit[1]) == pytest.approx(137 / 2, abs=1)
