import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from triplex_deploy.errors import ConfigError
from triplex_deploy.spots.pooling import Pooled, Pooling, places_of_bins, places_of_cells

LATTICES = st.sampled_from(["square", "hexagonal"])
PITCHES = st.floats(20, 500)


def _points(seed: int, count: int = 300) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 3000, (count, 2))


@given(lattice=LATTICES, pitch_um=PITCHES, seed=st.integers(0, 100))
def test_every_point_belongs_to_the_spot_with_the_nearest_center(
    lattice: str, pitch_um: float, seed: int
) -> None:
    pooling = Pooling(pitch_um, lattice)
    xy = _points(seed)
    places = pooling.places(xy)
    own = np.linalg.norm(pooling.centers_um(places) - xy, axis=1)
    steps = (-2, -1, 0, 1, 2)
    for row, col in ((r, c) for r in steps for c in steps):
        if lattice == "hexagonal" and (row + col) % 2:
            continue
        other = pooling.centers_um(places + np.array([row, col]))
        assert (np.linalg.norm(other - xy, axis=1) >= own - 1e-6).all()


@given(lattice=LATTICES, pitch_um=PITCHES)
def test_hexagonal_places_are_those_of_space_ranger_and_neighbors_a_pitch_apart(
    lattice: str, pitch_um: float
) -> None:
    pooling = Pooling(pitch_um, lattice)
    places = pooling.places(_points(1))
    step = np.array([[0, 2], [1, 1]] if pooling.is_hexagonal else [[0, 1], [1, 0]])
    for neighbor in step:
        apart = pooling.centers_um(places + neighbor) - pooling.centers_um(places)
        np.testing.assert_allclose(np.linalg.norm(apart, axis=1), pitch_um)
    if pooling.is_hexagonal:
        assert (places.sum(axis=1) % 2 == 0).all()


def test_a_square_spot_is_a_square_of_the_pitch_from_the_corner_of_the_slide() -> None:
    pooling = Pooling(100)
    assert pooling.places(np.array([[0, 0], [99.9, 0], [100, 250]])).tolist() == [
        [0, 0],
        [0, 0],
        [2, 1],
    ]
    assert pooling.centers_um(np.array([[2, 1]])).tolist() == [[150, 250]]


def test_spots_that_bins_cover_by_less_than_half_are_left_out() -> None:
    bins = np.array([(x, y) for x in range(10, 100, 20) for y in range(10, 70, 20)], float)
    thin = np.array([(x, y) for x in range(110, 200, 20) for y in (10, 30)], float)
    pooled = places_of_bins(Pooling(100), np.concatenate([thin, bins]), 20)  # 10 and 15 of 25
    assert pooled.grid_rc.tolist() == [[0, 0]]
    assert pooled.spot_of.tolist() == [-1] * 10 + [0] * 15


def test_spots_with_cells_in_one_quarter_are_left_out() -> None:
    cells = np.array([[10, 10], [20, 30], [110, 10], [190, 90]], float)
    assert places_of_cells(Pooling(100), cells).grid_rc.tolist() == [[0, 1]]


@given(seed=st.integers(0, 50))
def test_the_index_of_a_place_is_that_of_its_spot(seed: int) -> None:
    random = np.random.default_rng(seed)
    grid_rc = np.unique(random.integers(-9, 9, (20, 2)), axis=0)
    pooled = Pooled(grid_rc, np.empty(0, np.int64))
    wanted = random.integers(-12, 12, (50, 2))
    known = {tuple(place): i for i, place in enumerate(grid_rc.tolist())}
    assert pooled.index(wanted).tolist() == [known.get(tuple(w), -1) for w in wanted.tolist()]


@pytest.mark.parametrize(
    "wrong",
    [{"pool_um": 1}, {"pool_um": float("nan")}, {"lattice": "round"}, {"bin_um": 2}, {"kind": "x"}],
)
def test_impossible_values_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Pooling(**{"pool_um": 100.0, **wrong})  # type: ignore[arg-type]
