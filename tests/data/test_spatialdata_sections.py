"""SpatialData stores, as spatialdata-io writes them, pooled into spots."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("spatialdata")

from tests.vendor_outputs import GENES, write_slide, write_visium_hd
from triplex_deploy.cohort.inputs import find_slides
from triplex_deploy.data import SectionEntry, read_dataset
from triplex_deploy.errors import DatasetError, SpotsError
from triplex_deploy.slides import open_slide
from triplex_deploy.spots import Pooling, pooled_files, read_pooled_spots, read_spots

SIZE = (900, 800)
TO_GLOBAL = np.array([[0.0, 2.0, 40.0], [-2.0, 0.0, 2000.0], [0.0, 0.0, 1.0]])
"""The H&E is turned by 90 degrees in the store's frame."""


def write_store(path: Path, *, points: bool = True, table: bool = True, rgb: bool = True) -> Any:
    """Write 2000 transcripts and 500 cells on (100, 200) to (700, 600) px; return the points."""
    import anndata
    import geopandas
    import spatialdata
    from shapely import points as shapely_points
    from spatialdata.models import Image2DModel, PointsModel, ShapesModel, TableModel
    from spatialdata.transformations import Affine, Scale

    random = np.random.default_rng(5)
    pixels = random.integers(0, 255, (3 if rgb else 1, SIZE[1], SIZE[0]), np.uint8)
    level0_xy = random.uniform((100, 200), (700, 600), (2000, 2))
    global_xy = level0_xy @ TO_GLOBAL[:2, :2].T + TO_GLOBAL[:2, 2]
    transcripts = pd.DataFrame(
        {
            "x": global_xy[:, 0] / 4,
            "y": global_xy[:, 1] / 4,
            "gene": random.choice([*GENES, "BLANK_1"], 2000),
            "qv": random.choice([10.0, 30.0], 2000),
        }
    )
    to_global = {"global": Scale([4.0, 4.0], ("x", "y"))}
    elements: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        elements["he"] = Image2DModel.parse(
            pixels,
            dims=("c", "y", "x"),
            scale_factors=[2],
            transformations={"global": Affine(TO_GLOBAL, ("x", "y"), ("x", "y"))},
        )
        if points:
            elements["transcripts"] = PointsModel.parse(
                transcripts,
                coordinates={"x": "x", "y": "y"},
                feature_key="gene",
                transformations=to_global,
            )
        if table:
            centers = transcripts[["x", "y"]].to_numpy()[:500]
            frame = geopandas.GeoDataFrame(
                {"radius": np.ones(500)}, geometry=shapely_points(centers)
            )
            elements["cells"] = ShapesModel.parse(frame, transformations=to_global)
            counts = anndata.AnnData(random.poisson(2, (500, 3)).astype(np.float32))
            counts.var_names = list(GENES)
            counts.obs_names = [f"c{i}" for i in range(500)]
            counts.obs["region"] = pd.Categorical(["cells"] * 500)
            counts.obs["cell"] = np.arange(500)
            elements["table"] = TableModel.parse(
                counts, region="cells", region_key="region", instance_key="cell"
            )
        spatialdata.SpatialData.init_from_elements(elements).write(path)
    return transcripts


def write_bins_store(
    path: Path, root: Path, *, of_shapes: bool = True, full_image: bool = True
) -> None:
    """Write a Visium HD output to ``root``, and its store named as spatialdata-io names it."""
    import anndata
    import geopandas
    import h5py
    import spatialdata
    from scipy.sparse import csr_array
    from shapely import points as shapely_points
    from spatialdata.models import Image2DModel, Labels2DModel, ShapesModel, TableModel
    from spatialdata.transformations import Identity, Scale

    write_visium_hd(root)
    write_slide(root / "slide.png", (900, 850))
    frames = {"hd": Identity(), "hd_downscaled_hires": Scale([0.5, 0.5], ("x", "y"))}
    elements: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        elements["hd_hires_image"] = Image2DModel.parse(
            np.zeros((3, 425, 450), np.uint8),
            dims=("c", "y", "x"),
            transformations={
                "hd": Scale([2.0, 2.0], ("x", "y")),
                "hd_downscaled_hires": Identity(),
            },
        )
        if full_image:
            elements["hd_full_image"] = Image2DModel.parse(
                np.zeros((3, 850, 900), np.uint8),
                dims=("c", "y", "x"),
                transformations={"hd": Identity()},
            )
        labels = np.zeros((50, 50), np.uint16)
        elements["bins"] = Labels2DModel.parse(labels, transformations={"hd": Identity()})
        for bin_um in (8, 16):
            name = f"square_{bin_um:03d}um"
            folder = root / "outs/binned_outputs" / name
            bins = pd.read_parquet(folder / "spatial/tissue_positions.parquet")
            with h5py.File(folder / "filtered_feature_bc_matrix.h5") as file:
                parts = [file["matrix"][part][:] for part in ("data", "indices", "indptr")]
            counts = anndata.AnnData(csr_array(tuple(parts), (len(bins), len(GENES))))
            counts.var_names = list(GENES)
            region = f"hd_{name}" if of_shapes else "bins"
            counts.obs = pd.DataFrame(
                {
                    "region": pd.Categorical([region] * len(bins)),
                    "location_id": np.arange(len(bins)),
                }
            ).set_axis(bins["barcode"].to_numpy())
            centers = shapely_points(bins[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy())
            squares = geopandas.GeoSeries(centers).buffer(bin_um, cap_style="square")
            elements[f"hd_{name}"] = ShapesModel.parse(
                geopandas.GeoDataFrame(geometry=squares), transformations=frames
            )
            elements[name] = TableModel.parse(
                counts, region=region, region_key="region", instance_key="location_id"
            )
        spatialdata.SpatialData.init_from_elements(elements).write(path)


@pytest.fixture
def listed() -> dict[str, SectionEntry]:
    return {"s.zarr": SectionEntry("p", None, 0.5)}


def test_transcripts_of_a_store_are_pooled(tmp_path: Path, listed: Any) -> None:
    transcripts = write_store(tmp_path / "s.zarr")
    (section,) = read_dataset(tmp_path, "spatialdata", listed, Pooling(50))
    good = transcripts[(transcripts["qv"] >= 20) & (transcripts["gene"] != "BLANK_1")]
    assert section.genes == tuple(sorted(GENES))
    assert section.counts.sum() == len(good)
    assert section.level0_xy.min(axis=0).tolist() == [150, 250]
    assert section.level0_xy.max(axis=0).tolist() == [650, 550]
    with open_slide(section.slide_path) as slide:
        assert slide.level_sizes == (SIZE, (450, 400))


def test_cells_of_a_store_without_transcripts_are_pooled(tmp_path: Path, listed: Any) -> None:
    write_store(tmp_path / "s.zarr", points=False)
    (section,) = read_dataset(tmp_path, "spatialdata", listed, Pooling(100))
    import anndata

    cells = anndata.io.read_zarr(tmp_path / "s.zarr/tables/table")
    assert section.genes == GENES
    np.testing.assert_array_equal(section.counts.sum(axis=0), cells.X.sum(axis=0))


def test_spots_of_a_store_are_those_of_its_section(tmp_path: Path, listed: Any) -> None:
    write_store(tmp_path / "s.zarr")
    (section,) = read_dataset(tmp_path, "spatialdata", listed, Pooling(50))
    spots = read_pooled_spots(tmp_path / "s.zarr", Pooling(50), SIZE, 0.5)
    np.testing.assert_array_equal(spots.grid_rc, section.grid_rc)
    np.testing.assert_array_equal(spots.level0_xy, section.level0_xy)
    assert pooled_files(tmp_path / "s.zarr", Pooling(50))
    with pytest.raises(SpotsError, match=r"s\.zarr: holds no spots but .*--pool-um 100"):
        read_spots(tmp_path / "s.zarr")
    with pytest.raises(SpotsError, match="900x800; predict"):
        read_pooled_spots(tmp_path / "s.zarr", Pooling(50), (100, 100), 0.5)
    with pytest.raises(SpotsError, match="give the slide's mpp"):
        read_pooled_spots(tmp_path / "s.zarr", Pooling(50))


@pytest.mark.parametrize("bin_um", [8, 16])
def test_bins_of_a_store_are_pooled_as_those_of_visium_hd(
    tmp_path: Path, listed: Any, bin_um: int
) -> None:
    write_bins_store(tmp_path / "s.zarr", tmp_path / "hd")
    pooling = Pooling(100, bin_um=bin_um)
    (section,) = read_dataset(tmp_path / "s.zarr", "spatialdata", listed, pooling)
    (expected,) = read_dataset(tmp_path / "hd", "visium-hd", pooling=pooling)
    np.testing.assert_array_equal(section.grid_rc, expected.grid_rc)
    np.testing.assert_array_equal(section.counts.toarray(), expected.counts.toarray())
    spots = read_pooled_spots(tmp_path / "s.zarr", pooling, (900, 850), 0.5)
    np.testing.assert_array_equal(spots.grid_rc, expected.grid_rc)


def test_a_listed_section_that_is_absent_names_those_that_are_there(
    tmp_path: Path, listed: Any
) -> None:
    write_store(tmp_path / "t.zarr", points=False)
    with pytest.raises(DatasetError, match=r"no section s\.zarr; correct .* here are t\.zarr$"):
        read_dataset(tmp_path, "spatialdata", listed, Pooling(50))


def test_what_a_store_lacks_is_told(tmp_path: Path, listed: Any) -> None:
    write_store(tmp_path / "s.zarr", rgb=False)
    with pytest.raises(DatasetError, match="no image in RGB"):
        read_dataset(tmp_path, "spatialdata", listed, Pooling(50))


def test_a_picture_of_the_slide_is_not_taken_for_it(tmp_path: Path, listed: Any) -> None:
    write_bins_store(tmp_path / "s.zarr", tmp_path / "hd", full_image=False)
    with pytest.raises(DatasetError, match=r"only small pictures.*hd_hires_image"):
        read_dataset(tmp_path / "s.zarr", "spatialdata", listed, Pooling(50))


def test_a_table_of_labels_alone_is_told(
    tmp_path: Path, listed: Any, caplog: pytest.LogCaptureFixture
) -> None:
    write_bins_store(tmp_path / "s.zarr", tmp_path / "hd", of_shapes=False)
    with pytest.raises(DatasetError, match=r"nor a table of shapes .*square_008um, square_016um"):
        read_dataset(tmp_path / "s.zarr", "spatialdata", listed, Pooling(50))
    assert not caplog.records  # ome-zarr logs about labels without an image


def test_a_store_needs_its_scale_and_its_image(tmp_path: Path) -> None:
    write_store(tmp_path / "s.zarr")
    with pytest.raises(DatasetError, match="no microns per pixel"):
        read_dataset(tmp_path / "s.zarr", "spatialdata", pooling=Pooling(50))
    write_slide(tmp_path / "other.png", (30, 20))
    listed = {"s.zarr": SectionEntry("p", tmp_path / "other.png")}
    with pytest.raises(DatasetError, match="30x20 pixels, and the image of the store 900x800"):
        read_dataset(tmp_path, "spatialdata", listed, Pooling(50))


def test_a_store_that_could_run_code_is_refused(tmp_path: Path, listed: Any) -> None:
    write_store(tmp_path / "s.zarr")
    array = next((tmp_path / "s.zarr/tables").rglob("zarr.json"))
    content = json.loads(array.read_text())
    array.write_text(json.dumps({**content, "filters": [{"id": "pickle"}]}))
    with pytest.raises(DatasetError, match="codec 'pickle'"):
        read_dataset(tmp_path, "spatialdata", listed, Pooling(50))


def test_a_damaged_store_is_one_error(tmp_path: Path, listed: Any) -> None:
    write_store(tmp_path / "s.zarr")
    for part in (tmp_path / "s.zarr/points").rglob("*.parquet"):
        if part.is_file():
            part.write_bytes(b"PAR1 damaged")
    with pytest.raises(DatasetError, match=r"s\.zarr") as caught:
        read_dataset(tmp_path, "spatialdata", listed, Pooling(50))
    assert "\n" not in str(caught.value)


def test_a_cut_blosc_chunk_of_a_table_is_one_error(tmp_path: Path, listed: Any) -> None:
    import zarr
    from zarr.codecs import BloscCodec

    write_store(tmp_path / "s.zarr", points=False)
    array = tmp_path / "s.zarr/tables/table/X"
    values = np.asarray(zarr.open_array(array, mode="r")[:])
    zarr.create_array(array, data=values, compressors=BloscCodec(), overwrite=True)
    assert read_dataset(tmp_path, "spatialdata", listed, Pooling(50))
    chunk = array / "c" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-30])
    with pytest.raises(DatasetError, match=r"X: damaged.*Blosc chunk"):
        read_dataset(tmp_path, "spatialdata", listed, Pooling(50))


def test_a_store_in_a_folder_of_slides_is_no_slide(tmp_path: Path) -> None:
    write_store(tmp_path / "s.zarr", points=False, table=False)
    (tmp_path / "a.svs").touch()
    assert [entry.output for entry in find_slides([tmp_path])] == ["a"]
