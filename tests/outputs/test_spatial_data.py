"""The store, read back with the library its users have."""

import errno
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from triplex_deploy.errors import OutputError
from triplex_deploy.outputs import Prediction
from triplex_deploy.outputs.formats import convert

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what the library and its dependencies say on import
    spatialdata = pytest.importorskip("spatialdata")


def read(path: Path) -> Any:
    return spatialdata.read_zarr(path)


def test_the_store_reads_back(prediction: Prediction, tmp_path: Path) -> None:
    path = convert(prediction, "spatialdata", tmp_path / "a.zarr")
    assert [file.name for file in tmp_path.iterdir()] == ["a.zarr"]
    store = read(path)
    table = store["expression"]
    np.testing.assert_array_equal(table.X, prediction.expression)
    assert list(table.var_names) == ["GNAS", "FASN", "ERBB2"]
    assert table.uns["triplex"]["bundle_id"] == "sha256:0f3a"
    spots = store["spots"]
    assert list(spots.index) == list(prediction.spot_names)
    np.testing.assert_array_equal(spots.radius, 224.0)
    np.testing.assert_array_equal(
        np.stack([spots.geometry.x, spots.geometry.y], axis=1), prediction.level0_xy
    )
    picture = np.moveaxis(np.asarray(store["thumbnail"]), 0, 2)
    np.testing.assert_array_equal(picture, prediction.thumbnail)


def test_the_picture_is_scaled_to_level_0(prediction: Prediction, tmp_path: Path) -> None:
    from spatialdata.transformations import get_transformation

    store = read(convert(prediction, "spatialdata", tmp_path / "a.zarr"))
    matrix = get_transformation(store["thumbnail"], "global").to_affine_matrix(
        input_axes=("x", "y"), output_axes=("x", "y")
    )
    np.testing.assert_array_equal(matrix, np.diag([4, 4, 1]))  # 3200 x 2400 from 800 x 600
    extent = spatialdata.get_extent(store)
    assert extent["x"] == (0.0, 3200.0)
    assert extent["y"] == (0.0, 2400.0)


def test_the_table_annotates_the_spots(prediction: Prediction, tmp_path: Path) -> None:
    store = read(convert(prediction, "spatialdata", tmp_path / "a.zarr"))
    shapes, table = spatialdata.join_spatialelement_table(
        sdata=store, spatial_element_names="spots", table_name="expression", how="inner"
    )
    assert len(shapes["spots"]) == table.n_obs == 30
    values = spatialdata.get_values(
        "GNAS", sdata=store, element_name="spots", table_name="expression"
    )
    np.testing.assert_array_equal(values["GNAS"], prediction.expression[:, 0])


def test_an_earlier_store_is_replaced(prediction: Prediction, tmp_path: Path) -> None:
    convert(prediction, "spatialdata", tmp_path / "a.zarr")
    path = convert(prediction, "spatialdata", tmp_path / "a.zarr", genes=["FASN"])
    assert list(read(path)["expression"].var_names) == ["FASN"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_keeps_the_earlier_store(
    prediction: Prediction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = convert(prediction, "spatialdata", tmp_path / "a.zarr")
    rename = Path.rename

    def fill_disk(self: Path, target: Path) -> Path:
        if target == path and self.suffix == ".tmp":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fill_disk)
    with pytest.raises(OutputError, match=r"No space left on device.*free space"):
        convert(prediction, "spatialdata", path, genes=["FASN"])
    assert list(tmp_path.iterdir()) == [path]
    assert read(path)["expression"].n_vars == 3
