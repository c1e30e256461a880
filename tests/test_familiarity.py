"""The description of training tiles: its definition, and what it must notice."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from triplex_deploy import familiarity
from triplex_deploy.errors import BundleError, ContractError
from triplex_deploy.familiarity import (
    DIRECTIONS,
    MIN_TILES,
    TrainingTiles,
    read_training_tiles,
)

WIDTH = 96


def features(count: int, seed: int, shift: float = 0.0) -> NDArray[np.float32]:
    """Return features with a few strong directions, as of tissue, and weak noise in all others."""
    rng = np.random.default_rng(seed)
    basis = np.random.default_rng(7).standard_normal((8, WIDTH))
    along = rng.standard_normal((count, 8)) * np.linspace(4, 1, 8)
    noise = 0.3 * rng.standard_normal((count, WIDTH))
    return (along @ basis + noise + shift).astype(np.float32)


@pytest.fixture(scope="module")
def tiles() -> TrainingTiles:
    found = TrainingTiles.describe([features(2900, 1), features(3100, 2)])
    assert found is not None
    return found


def test_distance_is_that_of_the_definition(tiles: TrainingTiles) -> None:
    given = np.concatenate([features(2900, 1), features(3100, 2)]).astype(np.float64)
    centered = given - given.mean(0)
    values, vectors = np.linalg.eigh(np.cov(given.T))
    leading = vectors[:, np.argsort(values)[::-1][:DIRECTIONS]]
    variances = np.sort(values)[::-1][:DIRECTIONS]
    along = centered @ leading
    outside = ((centered - along @ leading.T) ** 2).sum(1)
    wanted = np.sqrt((along**2 / variances).mean(1) + outside / outside.mean())
    np.testing.assert_allclose(tiles.distance(given), wanted, rtol=2e-3)


def test_kept_distances_are_of_tiles_that_were_not_looked_at(tiles: TrainingTiles) -> None:
    fresh = tiles.distance(features(4000, 11))
    for level in (0.1, 0.5, 0.9):
        kept = float(np.quantile(tiles.distances, level))
        assert kept == pytest.approx(float(np.quantile(fresh, level)), rel=0.06)


def test_tiles_of_the_same_tissue_are_familiar_and_others_are_not(tiles: TrainingTiles) -> None:
    same = tiles.familiarity(features(2000, 3))
    assert abs(float(np.median(same)) - 0.5) < 0.1
    assert (same < 0.01).mean() < 0.05
    assert (tiles.familiarity(features(300, 4, shift=2.0)) < 0.01).mean() > 0.95
    assert tiles.familiarity(tiles.mean[None])[0] == pytest.approx(1.0)


@given(st.integers(0, 10_000), st.floats(0, 30))
def test_further_tiles_are_never_more_familiar(
    tiles: TrainingTiles, seed: int, factor: float
) -> None:
    one = features(1, seed)
    further = (tiles.mean + (1 + factor) * (one - tiles.mean)).astype(np.float32)
    assert tiles.distance(further)[0] >= tiles.distance(one)[0] * (1 - 1e-5)
    assert tiles.familiarity(further)[0] <= tiles.familiarity(one)[0] + 1e-6


def test_too_few_tiles_are_not_described() -> None:
    assert TrainingTiles.describe([features(MIN_TILES - 1, 1)]) is None
    assert TrainingTiles.describe([]) is None
    assert TrainingTiles.describe([features(MIN_TILES, 1)]) is not None


def test_constant_features_are_described() -> None:
    found = TrainingTiles.describe([np.ones((MIN_TILES, 5), np.float32)])
    assert found is not None
    assert np.isfinite(found.distance(np.full((2, 5), 3, np.float32))).all()
    assert found.familiarity(np.full((1, 5), 3, np.float32))[0] == 0


def test_many_tiles_are_drawn_from_all_sections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(familiarity, "MAX_TILES", 1000)
    sections = [np.full((n, 3), i, np.float32) for i, n in enumerate((900, 5, 1200))]
    drawn = familiarity._drawn(sections)
    assert len(drawn) == 1000
    counts = np.bincount(drawn[:, 0].astype(int), minlength=3)
    assert abs(counts[0] / 1000 - 900 / 2105) < 0.05
    assert counts[2] > counts[0]


def test_file_gives_the_same(tiles: TrainingTiles, tmp_path: Path) -> None:
    np.savez(tmp_path / "tiles.npz", **tiles.arrays())  # type: ignore[arg-type]
    again = read_training_tiles(tmp_path / "tiles.npz")
    given = features(50, 9)
    np.testing.assert_array_equal(again.familiarity(given), tiles.familiarity(given))


@pytest.mark.parametrize(
    "changes",
    [
        {"mean": np.zeros(3, np.float32)},
        {"variances": np.zeros(DIRECTIONS, np.float32)},
        {"distances": np.array([2, 1], np.float32)},
        {"distances": np.array([1], np.float32)},
        {"residual": float("nan")},
        {"directions": np.zeros((0, WIDTH), np.float32)},
        {"directions": np.zeros(WIDTH, np.float32)},
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    tiles: TrainingTiles, changes: dict[str, object]
) -> None:
    with pytest.raises(ContractError, match="the arrays do not fit together; train again"):
        replace(tiles, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip", b"text"])
def test_damaged_files_are_errors_of_the_bundle(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tiles.npz").write_bytes(content)
    with pytest.raises(
        BundleError, match=r"tiles.npz: cannot be read: .*; export the bundle again"
    ):
        read_training_tiles(tmp_path / "tiles.npz")


def test_missing_arrays_are_errors_of_the_bundle(tiles: TrainingTiles, tmp_path: Path) -> None:
    np.savez(tmp_path / "tiles.npz", mean=tiles.mean)
    with pytest.raises(BundleError, match=r"tiles.npz: familiarity: arrays are missing or unknown"):
        read_training_tiles(tmp_path / "tiles.npz")
