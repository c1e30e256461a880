from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

from triplex_deploy.errors import ConfigError
from triplex_deploy.outputs import Prediction
from triplex_deploy.outputs.formats import convert
from triplex_deploy.outputs.raster import rasterize


def test_each_gene_is_a_float_channel_at_the_slides_scale(
    prediction: Prediction, tmp_path: Path
) -> None:
    path = convert(prediction, "ome-tiff", tmp_path / "a.ome.tif", pixel_um=7)  # 28 level-0 px
    with tifffile.TiffFile(path) as file:
        assert file.is_ome
        series = file.series[0]
        assert series.axes == "CYX"
        assert series.dtype == np.float32
        picture = series.asarray()
        assert file.ome_metadata is not None
        pixels = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]
    assert picture.shape == (3, 86, 115)  # 2400 / 28 and 3200 / 28, rounded up
    assert (pixels["PhysicalSizeX"], pixels["PhysicalSizeXUnit"]) == (7.0, "µm")
    assert (pixels["PhysicalSizeY"], pixels["PhysicalSizeYUnit"]) == (7.0, "µm")
    assert [channel["Name"] for channel in pixels["Channel"]] == ["GNAS", "FASN", "ERBB2"]
    at = (prediction.level0_xy / 28).astype(int)  # (N, 2) x, y of every spot's center
    np.testing.assert_array_equal(picture[:, at[:, 1], at[:, 0]].T, prediction.expression)
    assert np.isnan(picture[:, :, -1]).all()


def test_square_spots_that_touch_share_their_pixels_out(prediction: Prediction) -> None:
    raster = rasterize(prediction)
    assert raster.level0_per_px == 56.0
    assert set(np.bincount(raster.owner[raster.owner >= 0])) == {64}  # 8 x 8 each


def test_round_spots_leave_their_corners_empty(prediction: Prediction) -> None:
    visium = replace(prediction, run={**prediction.run, "layout": "visium"})
    raster = rasterize(visium, pixel_um=2)
    area_px = np.bincount(raster.owner[raster.owner >= 0])
    np.testing.assert_allclose(area_px, np.pi * 28**2, rtol=0.02)


def test_the_nearest_centre_has_the_pixel_where_spots_overlap(prediction: Prediction) -> None:
    wide = replace(prediction, spot_diameter_px=900.0)
    raster = rasterize(wide, pixel_um=7)
    rows, columns = np.nonzero(raster.owner >= 0)
    centers = (np.stack([columns, rows], axis=1) + 0.5) * 28
    apart = np.hypot(*(centers[:, None] - wide.level0_xy).transpose(2, 0, 1))  # (P, N)
    chosen = apart[np.arange(len(rows)), raster.owner[rows, columns]]
    np.testing.assert_allclose(chosen, apart.min(axis=1), rtol=1e-6)


def test_a_spot_at_the_edge_is_cut_off(prediction: Prediction) -> None:
    edge = prediction.level0_xy.copy()
    edge[0] = (-500.0, 100.0)
    edge[1] = (3200.0, 2400.0)
    raster = rasterize(replace(prediction, level0_xy=edge))
    assert 0 not in raster.owner
    assert raster.owner[-1, -1] == 1


@pytest.mark.parametrize(
    ("pixel_um", "message"),
    [
        (80.0, "spots are 112 um wide; use at most 56 um"),
        (0.01, "the picture would be 80,000 px long; use at least 0.0488 um"),
    ],
)
def test_a_pixel_size_that_does_not_suit_is_refused(
    prediction: Prediction, tmp_path: Path, pixel_um: float, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        convert(prediction, "ome-tiff", tmp_path / "a.ome.tif", pixel_um=pixel_um)
    assert list(tmp_path.iterdir()) == []
