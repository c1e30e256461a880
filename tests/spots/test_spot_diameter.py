"""The diameter at which a spot is drawn."""

from pathlib import Path

import anndata
import numpy as np
import pytest

from triplex_deploy.spots import read_spots
from triplex_deploy.spots.spot_diameter import diameter_from_pitch, named_diameter, only_library


def hexagon(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Centers 100 px apart, and Space Ranger's (row, column)."""
    grid_rc = np.array([(r, 2 * c + r % 2) for r in range(rows) for c in range(columns)])
    return np.stack([grid_rc[:, 1] * 50, grid_rc[:, 0] * 50 * 3**0.5], axis=1), grid_rc


@pytest.mark.parametrize("every", [1, 2, 7, 20])
def test_her2st_whichever_spots_are_selected(every: int, shared_data: Path) -> None:
    spots = read_spots(shared_data / "her2st/ST-spotfiles/C3_selection.tsv")
    diameter = diameter_from_pitch(spots.level0_xy[::every], spots.grid_rc[::every])
    assert diameter == pytest.approx(145.5, abs=2)


def test_checkerboard_of_a_square_array_is_not_hexagonal() -> None:
    rows, columns = np.mgrid[:6, :6].reshape(2, -1)[:, (np.indices((6, 6)).sum(0) % 2 == 0).ravel()]
    xy = np.stack([columns, rows], axis=1) * 100.0
    assert diameter_from_pitch(xy, np.stack([rows, columns], axis=1)) == pytest.approx(50)


@pytest.mark.parametrize("kept", [slice(None), slice(0, 4), slice(0, 24, 4), slice(0, None, 5)])
def test_pitch_of_a_hexagonal_array_is_between_neighbors(kept: slice) -> None:
    xy, grid_rc = hexagon(6, 4)
    assert diameter_from_pitch(xy[kept], grid_rc[kept]) == pytest.approx(50, rel=0.05)


def test_lone_spot_has_a_size() -> None:
    assert diameter_from_pitch(np.zeros((1, 2)), np.zeros((1, 2), np.int64)) == 100


@pytest.mark.parametrize(
    "scalefactors", [None, {}, [], {"spot_diameter_fullres": "x"}, {"spot_diameter_fullres": 0}]
)
def test_no_diameter_is_named(scalefactors: object) -> None:
    assert named_diameter(scalefactors) is None


def library(diameter: float) -> dict[str, dict[str, float]]:
    return {"scalefactors": {"spot_diameter_fullres": diameter}}


@pytest.mark.parametrize(
    ("spatial", "diameter"),
    [
        ({"s1": library(77.5)}, 77.5),
        ({"is_single": True, "s1": library(77.5)}, 77.5),
        ({"is_single": np.True_, "s1": library(77.5)}, 77.5),
        ({"s1": library(77.5), "s2": library(60.0)}, None),
        ({"is_single": False}, None),
        ({}, None),
        (None, None),
    ],
)
def test_the_only_library_gives_the_diameter(
    spatial: dict[str, object] | None, diameter: float | None, tmp_path: Path
) -> None:
    factors = (only_library(spatial) or {}).get("scalefactors")
    assert named_diameter(factors) == diameter
    table = anndata.AnnData(np.zeros((2, 1)), uns={} if spatial is None else {"spatial": spatial})
    table.obsm["spatial"] = np.array([[10, 20], [110, 20]])
    table.write_h5ad(tmp_path / "s.h5ad")
    expected = 50.0 if diameter is None else diameter
    found = read_spots(tmp_path / "s.h5ad").spot_diameter_px
    assert found == pytest.approx(expected, rel=1e-9)
