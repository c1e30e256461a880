"""The stored numbers of genes: their meaning, and what is refused when they are read."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from triplex_deploy.calibration import SLOPE_RANGE, Calibration
from triplex_deploy.errors import BundleError, ContractError
from triplex_deploy.reliability import GeneReliability, read_reliability


def reliability(**changes: Any) -> GeneReliability:
    """Return numbers of three genes: supported, not supported and constant."""
    values = {
        "pcc": [0.5, 0.1, np.nan],
        "pcc_low": [0.3, -0.1, np.nan],
        "pcc_high": [0.7, 0.3, np.nan],
        "rmse": [0.1, 0.2, 0.3],
        "raw_rmse": [0.2, 0.3, 0.3],
        "pcc_ceiling": [0.9, 0.4, np.nan],
    }
    arrays = {name: np.array(row, np.float32) for name, row in values.items()}
    return GeneReliability(**{**arrays, "n_spots": 346, "n_sections": 1, **changes})


def f32(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def test_a_gene_is_supported_if_its_whole_interval_is_above_zero() -> None:
    assert reliability().is_supported.tolist() == [True, False, False]
    assert reliability().description == "measured at 346 held-out spots of 1 section"
    chosen = reliability().select(np.array([2, 0]))
    np.testing.assert_array_equal(chosen.pcc, f32(np.nan, 0.5))
    assert reliability().without_calibration().rmse.tolist() == reliability().raw_rmse.tolist()


def test_an_ensemble_has_the_means_of_its_members() -> None:
    other = reliability(rmse=f32(0.7, 0.2, 0.3), pcc_ceiling=f32(0.7, 0.4, 0.2), n_spots=54)
    joined = GeneReliability.of_members([reliability(), other])
    np.testing.assert_allclose(joined.rmse, np.sqrt([0.25, 0.04, 0.09]), rtol=1e-6)
    np.testing.assert_allclose(joined.pcc_ceiling, [0.8, 0.4, 0.2], rtol=1e-6)
    np.testing.assert_allclose(joined.pcc, [0.5, 0.1, np.nan], rtol=1e-6)
    assert (joined.n_spots, joined.n_sections) == (400, 2)


def test_the_file_of_a_bundle_is_read_as_it_was_written(tmp_path: Path) -> None:
    np.savez(tmp_path / "genes.npz", **reliability().arrays())  # type: ignore[arg-type]
    again = read_reliability(tmp_path / "genes.npz")
    for name, array in reliability().arrays().items():
        np.testing.assert_array_equal(array, again.arrays()[name])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pcc": f32(2, 0, 0)}, "out of range"),
        ({"pcc_low": f32(0.6, -0.1, np.nan)}, "out of range"),
        ({"pcc_low": f32(0.3, -0.1, 0)}, "out of range"),
        ({"rmse": f32(-1, 0, 0)}, "out of range"),
        ({"rmse": f32(np.nan, 0, 0)}, "out of range"),
        ({"raw_rmse": f32(np.inf, 0, 0)}, "out of range"),
        ({"pcc_ceiling": f32(1.5, 0, 0)}, "out of range"),
        ({"pcc": f32(0.5, 0.1)}, "do not fit together"),
        ({"rmse": np.zeros(3)}, "do not fit together"),
        ({"rmse": np.zeros((3, 1), np.float32)}, "do not fit together"),
        ({"n_spots": np.array(0)}, "number of spots is out of range"),
        ({"n_spots": np.array(1.5)}, "is no number"),
        ({"n_sections": np.array([1])}, "is no number"),
        ({"unknown": f32(1)}, "missing or unknown"),
        ({"pcc": np.array(["a", "b", "c"])}, "do not fit together"),
    ],
)
def test_hostile_values_are_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    np.savez(tmp_path / "genes.npz", **{**reliability().arrays(), **change})
    with pytest.raises(BundleError, match=words):
        read_reliability(tmp_path / "genes.npz")


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "genes.npz").write_bytes(b"no archive")
    with pytest.raises(BundleError, match="cannot be read"):
        read_reliability(tmp_path / "genes.npz")


def test_calibration_is_a_line_for_each_gene() -> None:
    lines = Calibration(f32(0.5, 2), f32(1, -1))
    assert lines.apply(np.array([[2.0, 3.0]])).tolist() == [[2.0, 5.0]]
    again = Calibration.from_arrays(lines.arrays())
    assert again.slope.tolist() == [0.5, 2]


@pytest.mark.parametrize(
    "arrays",
    [
        {"slope": f32(0), "offset": f32(0)},
        {"slope": f32(-1), "offset": f32(0)},
        {"slope": f32(SLOPE_RANGE[1] + 0.01), "offset": f32(0)},
        {"slope": f32(np.nan), "offset": f32(0)},
        {"slope": f32(1), "offset": f32(np.inf)},
        {"slope": f32(1), "offset": f32(np.nan)},
        {"slope": f32(1, 1), "offset": f32(0)},
        {"slope": np.ones(1), "offset": np.zeros(1)},
        {"slope": f32(1)},
        {"slope": f32(1), "offset": f32(0), "more": f32(0)},
    ],
)
def test_hostile_lines_are_refused(arrays: dict[str, NDArray[Any]]) -> None:
    with pytest.raises(ContractError, match="calibration"):
        Calibration.from_arrays(arrays)
