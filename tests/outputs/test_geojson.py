import json
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest

from triplex_deploy.errors import ConfigError
from triplex_deploy.outputs import Prediction
from triplex_deploy.outputs.formats import convert


def features(prediction: Prediction, folder: Path) -> list[dict]:
    path = convert(prediction, "geojson", folder / "a.geojson")
    collection = json.loads(path.read_text(encoding="utf-8"))
    assert collection["type"] == "FeatureCollection"
    assert collection["triplex-deploy"]["slide_name"] == "section A"
    return collection["features"]


def round_spots(prediction: Prediction) -> Prediction:
    return replace(prediction, run={**prediction.run, "layout": "visium"})


def test_grid_spots_are_qupath_tiles_with_a_measurement_per_gene(
    prediction: Prediction, tmp_path: Path
) -> None:
    tile = features(prediction, tmp_path)[13]
    assert tile["type"] == "Feature"
    assert str(UUID(tile["id"])) == tile["id"]
    assert tile["geometry"] == {
        "type": "Polygon",
        "coordinates": [
            [[524.5, 932.0], [972.5, 932.0], [972.5, 1380.0], [524.5, 1380.0], [524.5, 932.0]]
        ],
    }
    assert tile["properties"] == {
        "objectType": "tile",
        "name": "1x2",
        "measurements": {
            "GNAS": pytest.approx(prediction.expression[13, 0], rel=1e-5),
            "FASN": pytest.approx(prediction.expression[13, 1], rel=1e-5),
            "ERBB2": 0.5,
        },
    }


def test_round_spots_are_qupath_ellipses(prediction: Prediction, tmp_path: Path) -> None:
    spot = features(round_spots(prediction), tmp_path)[0]
    assert spot["properties"]["objectType"] == "detection"
    assert spot["geometry"]["isEllipse"] is True
    ring = np.array(spot["geometry"]["coordinates"][0])
    np.testing.assert_array_equal(ring[0], ring[-1])
    # QuPath takes the box of the ring for the ellipse
    np.testing.assert_allclose(ring.min(axis=0), [300.5 - 224, 260 - 224])
    np.testing.assert_allclose(ring.max(axis=0), [300.5 + 224, 260 + 224])


def test_a_missing_value_is_no_measurement(prediction: Prediction, tmp_path: Path) -> None:
    prediction.expression[3, 0] = np.nan
    assert list(features(prediction, tmp_path)[3]["properties"]["measurements"]) == [
        "FASN",
        "ERBB2",
    ]


def test_ids_are_unique_and_the_same_on_every_run(prediction: Prediction, tmp_path: Path) -> None:
    first, second = ([f["id"] for f in features(prediction, tmp_path)] for _ in range(2))
    assert first == second
    assert len(set(first)) == 30


def test_geopandas_reads_the_shapes(prediction: Prediction, tmp_path: Path) -> None:
    geopandas = pytest.importorskip("geopandas")
    path = convert(round_spots(prediction), "geojson", tmp_path / "a.geojson")
    frame = geopandas.GeoDataFrame.from_features(json.loads(path.read_text("utf-8")))
    assert len(frame) == 30
    assert frame.geometry.is_valid.all()
    centers = frame.geometry.centroid
    np.testing.assert_allclose(centers.x, prediction.level0_xy[:, 0], atol=0.01)
    np.testing.assert_allclose(centers.y, prediction.level0_xy[:, 1], atol=0.01)
    np.testing.assert_allclose(frame.geometry.area, np.pi * 224**2, rtol=0.02)


def test_coordinates_begin_at_the_scanned_part_as_in_qupath(
    prediction: Prediction, tmp_path: Path
) -> None:
    whole = features(prediction, tmp_path)[13]["geometry"]["coordinates"][0][0]
    cropped = replace(prediction, run={**prediction.run, "scanned_xy_px": [500, 32]})
    path = convert(cropped, "geojson", tmp_path / "b.geojson", qupath_bounds=True)
    first = json.loads(path.read_text(encoding="utf-8"))["features"][13]
    assert first["geometry"]["coordinates"][0][0] == [whole[0] - 500, whole[1] - 32]
    assert features(cropped, tmp_path)[13]["geometry"]["coordinates"][0][0] == whole


@pytest.mark.parametrize("recorded", [None, "0 0", [1], [1.5, 2], {"x": 1}])
def test_bounds_that_were_not_recorded_are_told(
    prediction: Prediction, tmp_path: Path, recorded: object
) -> None:
    run = {**prediction.run, "scanned_xy_px": recorded}
    with pytest.raises(ConfigError, match=r"not recorded; predict again, or open .* --no-crop"):
        convert(replace(prediction, run=run), "geojson", tmp_path / "b", qupath_bounds=True)


def test_other_formats_have_no_bounds(prediction: Prediction, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="qupath_bounds: a csv has whole slides"):
        convert(prediction, "csv", tmp_path / "a.csv", qupath_bounds=True)
