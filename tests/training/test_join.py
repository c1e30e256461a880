"""Measured spots are joined with predicted ones by where they lie, never by numbers alone."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest

from triplex_deploy.errors import DatasetError
from triplex_deploy.outputs.prediction import Prediction
from triplex_deploy.training.match import match_truth

RC = np.array([[row, col] for row in range(4) for col in range(5)], np.int64)
XY = RC[:, ::-1].astype(np.float64) * 100 + 50
GENES = ("GNAS", "FASN")
LABELS = np.random.default_rng(0).random((20, 2)) + 0.25


def prediction(**changes: Any) -> Prediction:
    """The labels themselves, on inferred array coordinates that are not the measured ones."""
    made = Prediction(
        slide_name="slide",
        expression=LABELS.astype(np.float32),
        genes=GENES,
        level0_xy=XY,
        grid_rc=RC,
        slide_size_wh=(600, 500),
        slide_mpp=0.5,
        spot_diameter_px=50.0,
        thumbnail=np.zeros((5, 6, 3), np.uint8),
        run={"layout": "file", "array_places": "inferred"},
    )
    return replace(made, **changes)


def write_truth(
    path: Path,
    rows: np.ndarray | None = None,
    xy: np.ndarray | None = None,
    places: np.ndarray = RC + 7,
    names: list[str] | None = None,
) -> Path:
    order = np.random.default_rng(1).permutation(20) if rows is None else rows
    index = [f"AAC{i}-1" for i in order] if names is None else names
    obs = pd.DataFrame(places[order], columns=["array_row", "array_col"], index=index)
    obsm = {} if xy is None else {"spatial": xy[order]}
    var = pd.DataFrame(index=list(GENES))
    anndata.AnnData(LABELS[order], obs, var, obsm=obsm).write_h5ad(path)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "truth.h5ad"


def test_spots_that_lie_on_each_other_are_joined_whatever_their_numbers(path: Path) -> None:
    shift = np.random.default_rng(2).uniform(-6, 6, XY.shape)
    matched = match_truth(prediction(), write_truth(path, xy=XY + shift))
    assert (matched.joined_by, len(matched.labels)) == ("centers", 20)
    np.testing.assert_allclose(matched.labels, matched.predicted, atol=1e-6)


def test_spots_elsewhere_are_refused_though_their_numbers_agree(path: Path) -> None:
    measured = prediction(run={"layout": "file", "array_places": "measured"})
    write_truth(path, xy=XY + np.array([40, 0]), places=RC)
    with pytest.raises(DatasetError, match="20 of them lie elsewhere on the slide"):
        match_truth(measured, path)


def test_centers_in_pixels_of_a_smaller_copy_do_not_hide_the_barcodes(path: Path) -> None:
    named = prediction(barcodes=tuple(f"AAC{i}-1" for i in range(20)))
    matched = match_truth(named, write_truth(path, xy=XY / 4))
    assert matched.joined_by == "barcodes"
    np.testing.assert_allclose(matched.labels, matched.predicted, atol=1e-6)


@pytest.mark.parametrize(
    "run", [{"layout": "grid"}, {"layout": "file", "array_places": "inferred"}]
)
def test_without_centers_numbers_of_another_frame_are_refused(
    path: Path, run: dict[str, str]
) -> None:
    write_truth(path, places=RC)
    with pytest.raises(DatasetError, match=r'level-0 centers in obsm\["spatial"\]'):
        match_truth(prediction(run=run), path)


def test_without_centers_barcodes_are_used_and_mere_numbers_are_not(path: Path) -> None:
    named = prediction(barcodes=tuple(f"AAC{i}-1" for i in range(20)))
    assert match_truth(named, write_truth(path)).joined_by == "barcodes"
    numbered = prediction(barcodes=tuple(map(str, range(20))))
    write_truth(path, names=[str(i) for i in range(20)])
    with pytest.raises(DatasetError, match="mean other spots"):
        match_truth(numbered, path)


def test_measured_array_places_are_joined(path: Path) -> None:
    measured = prediction(run={"layout": "file", "array_places": "measured"})
    matched = match_truth(measured, write_truth(path, places=RC))
    assert matched.joined_by == "array coordinates"
    np.testing.assert_allclose(matched.labels, matched.predicted, atol=1e-6)


def test_spots_without_partner_are_said(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        matched = match_truth(prediction(), write_truth(path, np.arange(19), xy=XY))
    assert (matched.predicted_alone, matched.measured_alone, caplog.text) == (1, 0, "")
    with caplog.at_level(logging.WARNING):
        match_truth(prediction(), write_truth(path, np.arange(12), xy=XY))
    assert "12 spots joined by centers; 8 predicted and 0 measured spots have no partner" in (
        caplog.text
    )


def test_few_partners_are_refused(path: Path) -> None:
    moved = XY + np.where(np.arange(20) < 14, 1000, 0)[:, None]
    write_truth(path, xy=moved)
    with pytest.raises(DatasetError, match="6 of its 20 spots are among the 20 predicted"):
        match_truth(prediction(), path)


def test_two_sections_in_one_truth_are_refused_whatever_the_values(path: Path) -> None:
    one = anndata.read_h5ad(write_truth(path, xy=XY))
    two = one.copy()
    two.obs_names = [f"{name}-2" for name in two.obs_names]
    anndata.concat([one, two]).write_h5ad(path)
    with pytest.raises(DatasetError, match="20 spots repeat the array coordinates of another"):
        match_truth(prediction(), path)
