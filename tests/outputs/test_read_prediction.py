"""Predictions come back from their h5ad, also those of the first version."""

from pathlib import Path

import numpy as np
import pytest

import triplex_deploy
from triplex_deploy import Prediction, TriplexError, read_prediction, write_h5ad

OLD = Path(__file__).with_name("data") / "prediction-0.1.0.h5ad"
"""Written by version 0.1.0, with the values of the test below."""


def test_written_prediction_reads_back_with_equal_arrays(
    prediction: Prediction, tmp_path: Path
) -> None:
    write_h5ad(prediction, str(tmp_path / "a.h5ad"))
    again = read_prediction(str(tmp_path / "a.h5ad"))
    for name in ("expression", "level0_xy", "grid_rc", "thumbnail"):
        np.testing.assert_array_equal(getattr(again, name), getattr(prediction, name))
        assert getattr(again, name).dtype == getattr(prediction, name).dtype
    for name in ("slide_name", "genes", "slide_size_wh", "slide_mpp", "spot_diameter_px"):
        assert getattr(again, name) == getattr(prediction, name)
    assert again.barcodes == prediction.barcodes


def test_prediction_of_the_first_version_is_read() -> None:
    old = read_prediction(OLD)
    expected = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    np.testing.assert_array_equal(old.expression, expected)
    np.testing.assert_array_equal(old.level0_xy, [[10.5, 20], [30, 20], [50, 20]])
    np.testing.assert_array_equal(old.grid_rc, [[0, 0], [0, 1], [0, 2]])
    assert (old.slide_name, old.genes, old.barcodes) == (
        "old slide",
        ("GNAS", "FASN"),
        ("A-1", "B-1", "C-1"),
    )
    assert (old.slide_size_wh, old.slide_mpp, old.spot_diameter_px) == ((100, 80), 0.5, 12.0)
    assert old.run["list"] == [1, 2]
    assert old.run["nothing"] is None
    assert old.tissue_overlay is not None


def test_missing_file_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(TriplexError, match="no such file"):
        read_prediction(tmp_path / "absent.h5ad")


@pytest.mark.parametrize("name", ["csv", "geojson", "h5ad", "json", "report", "ome_tiff"])
def test_public_writers_take_the_path_as_text(
    prediction: Prediction, tmp_path: Path, name: str
) -> None:
    path = tmp_path / f"slide.{name}"
    getattr(triplex_deploy, f"write_{name}")(prediction, str(path))
    assert path.stat().st_size > 0
