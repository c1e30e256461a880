"""The cases from the field, each remade as a small fixture with its right value."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import scipy.sparse
import tifffile
from scipy.ndimage import gaussian_filter

from tests.field.attacks.damaged_files import truth_with, visium_with
from tests.field.conftest import Finished, Invoke
from tests.field.kit import MPP, Kit, patch_tag, write_tiff
from tests.fuzz.children import call_in_child
from triplex_deploy import open_slide
from triplex_deploy.data.dataset import read_dataset
from triplex_deploy.data.measured import read_measured
from triplex_deploy.errors import SlideError

pytestmark = [pytest.mark.torch, pytest.mark.lengthy]
Predict = Callable[..., Finished]


def score(invoke: Invoke, prediction: Path, truth: Path) -> dict[str, Any]:
    """Return the metrics that ``evaluate`` writes."""
    finished = invoke("evaluate", prediction, "--truth", truth, "--out", "metrics.json")
    assert finished.status == 0, finished.err
    metrics: dict[str, Any] = json.loads(Path("metrics.json").read_text())
    for path in Path().glob("metrics*"):
        path.unlink()
    return metrics


def pixels_only(kit: Kit) -> Path:
    """Write the spots of section D1 without their array coordinates."""
    rows = (kit.demo / "dataset/ST-spotfiles/D1_selection.tsv").read_text().splitlines()
    cells = [row.split("\t")[4:6] for row in rows]
    path = kit.folder / "pixels.csv"
    path.write_text("\n".join(",".join(row) for row in cells) + "\n")
    return path


def test_f01_a_truth_is_joined_where_the_spots_lie(
    kit: Kit, invoke: Invoke, predict: Predict
) -> None:
    spots = kit.demo / "dataset/ST-spotfiles/D1_selection.tsv"
    slide, truth = kit.demo / "slide.tif", kit.demo / "truth.h5ad"
    assert predict(slide, "--spots", spots, out="measured").status == 0
    assert predict(slide, "--spots", pixels_only(kit), out="pixels").status == 0
    by_place = score(invoke, kit.folder / "measured/slide.h5ad", truth)
    by_pixels = score(invoke, kit.folder / "pixels/slide.h5ad", truth)
    assert by_pixels["model"] == by_place["model"]


def test_f01_places_of_its_own_are_not_compared_with_measured_places(
    kit: Kit, invoke: Invoke, predict: Predict
) -> None:
    truth = anndata.read_h5ad(kit.demo / "truth.h5ad")
    del truth.obsm["spatial"]
    truth.write_h5ad("places.h5ad")
    assert predict(kit.demo / "slide.tif", "--spots", pixels_only(kit)).status == 0
    finished = invoke("evaluate", "out/slide.h5ad", "--truth", "places.h5ad")
    assert "places.h5ad" in finished.error


def test_f01b_a_grid_is_not_compared_with_a_measured_array(
    kit: Kit, invoke: Invoke, predict: Predict
) -> None:
    assert predict(kit.demo / "slide.tif").status == 0
    counts = kit.demo / "dataset/ST-cnts/D1.tsv.gz"
    finished = invoke("evaluate", "out/slide.h5ad", "--truth", counts)
    assert counts.name in finished.error


OPTIONS: dict[str, Any] = {"tile": (256, 256), "photometric": "rgb", "compression": "lzw"}


def in_xml(mpp: float) -> dict[str, Any]:
    """Return OME metadata of a picture of this scale."""
    units = {"PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm"}
    return {"axes": "YXS", "PhysicalSizeX": mpp, "PhysicalSizeY": mpp, **units}


def macro_first(path: Path, pixels: np.ndarray) -> None:
    macro = np.full((640, 640, 3), 235, np.uint8)
    macro[100:500, 200:500] = (180, 90, 150)
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(macro, metadata=in_xml(20.0), **OPTIONS)
        writer.write(pixels, metadata=in_xml(MPP), **OPTIONS)


def scale_in_xml(path: Path, pixels: np.ndarray) -> None:
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(pixels, metadata=in_xml(MPP), subifds=1, **OPTIONS)
        writer.write(pixels[::2, ::2], subfiletype=1, **OPTIONS)


def stack(path: Path, pixels: np.ndarray) -> None:
    scale: dict[str, Any] = {"resolution": (1e4 / MPP, 1e4 / MPP), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as writer:
        for plane in (gaussian_filter(pixels, (12, 12, 0)), pixels):
            writer.write(plane, metadata=None, **OPTIONS, **scale)


def turned(path: Path, pixels: np.ndarray) -> None:
    write_tiff(path, pixels, extratags=[(274, 3, 1, 3, True)])


@pytest.mark.parametrize("write", [macro_first, scale_in_xml, stack, turned])
def test_f03_a_tiled_tiff_is_the_scan_or_an_error(
    kit: Kit, write: Callable[[Path, np.ndarray], None]
) -> None:
    pixels = kit.pixels()[:700, :900]
    path = kit.folder / f"{write.__name__}.ome.tif"
    write(path, pixels)
    try:
        slide = open_slide(path)
    except SlideError as error:
        message = str(error)
        assert path.name in message
        return
    with slide:
        assert slide.level_sizes[0] == (900, 700)
        assert np.array_equal(slide.read(0, 0, 0, 900, 700), pixels)
        assert slide.mpp == pytest.approx(MPP, rel=1e-3)


def test_f10_a_user_without_home_predicts(
    kit: Kit, predict: Predict, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(_number: int) -> None:
        raise KeyError("no such user")

    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert predict(kit.demo / "slide.tif").status == 0


def test_f11_a_name_that_is_not_utf8_costs_at_most_its_own_slide(kit: Kit, invoke: Invoke) -> None:
    folder = kit.folder / "in"
    folder.mkdir()
    for raw in (b"a.tif", b"caf\xe9.tif", b"z.tif"):
        shutil.copy(kit.demo / "slide.tif", folder / os.fsdecode(raw))
    finished = invoke("predict", folder, "--bundle", kit.bundle, "--out", "out", "--json")
    assert finished.status in (0, 3)
    assert "unexpected " not in finished.err
    assert json.loads(finished.out)
    for name in ("a.h5ad", "z.h5ad", "index.html"):
        assert (kit.folder / "out" / name).is_file()


def prepare(kit: Kit, invoke: Invoke, *arguments: object) -> Finished:
    given = ("--genes", "5", "--out", "prepared", "--tile-encoder", _encoder(kit))
    return invoke("prepare", *arguments, *given)


def _encoder(kit: Kit) -> Path:
    from tests.training.conftest import write_mean_encoder

    write_mean_encoder(kit.folder / "means.onnx", batch="batch")
    return kit.folder / "means.onnx"


def test_f12_a_list_of_patients_with_a_byte_order_mark_is_read(kit: Kit, invoke: Invoke) -> None:
    (kit.folder / "bom.csv").write_bytes(b"\xef\xbb\xbfsection,patient\r\nA1,P1\r\nB1,P2\r\n")
    root = kit.sections("A1", "B1")
    finished = prepare(kit, invoke, root, "--format", "st", "--patients", "bom.csv")
    assert finished.status == 0, finished.err


def test_f12_an_empty_list_of_patients_is_named(kit: Kit, invoke: Invoke) -> None:
    (kit.folder / "empty.csv").touch()
    root = kit.sections("A1", "B1")
    finished = prepare(kit, invoke, root, "--format", "st", "--patients", "empty.csv")
    assert "empty.csv" in finished.error


def test_f15_visium_hd_bins_are_bins_or_refused(kit: Kit, predict: Predict) -> None:
    pandas = pytest.importorskip("pandas")
    spatial = kit.folder / "square_016um/spatial"
    spatial.mkdir(parents=True)
    rows, columns = (values.ravel() for values in np.indices((6, 6)))
    step = 16 / MPP
    table = {
        "barcode": [f"s_016um_{r:05d}_{c:05d}-1" for r, c in zip(rows, columns, strict=True)],
        "in_tissue": 1,
        "array_row": rows,
        "array_col": columns,
        "pxl_row_in_fullres": 500 + rows * step + 0.01 * columns,
        "pxl_col_in_fullres": 500 + columns * step - 0.01 * rows,
    }
    pandas.DataFrame(table).to_parquet(spatial / "tissue_positions.parquet")
    finished = predict(kit.demo / "slide.tif", "--spots", spatial.parent)
    if finished.status:
        assert "square_016um" in finished.error
        return
    obs = anndata.read_h5ad("out/slide.h5ad").obs
    assert len(obs) == 36
    assert sorted(set(obs["array_col"])) == list(range(6))


def test_f16_selected_means_the_same_in_prepare_and_predict(
    kit: Kit, invoke: Invoke, predict: Predict
) -> None:
    root = kit.sections("A1", "B1")
    path = root / "ST-spotfiles/A1_selection.tsv"
    header, *rows = path.read_text().splitlines()
    assert header.endswith("selected")
    chosen = [f"{row[:-1]}{number % 2}" for number, row in enumerate(rows)]
    path.write_text("\n".join([header, *chosen]) + "\n")
    (image,) = root.glob("ST-imgs/A/A1/*")
    assert predict(image, "--spots", path).status == 0
    n_predicted = anndata.read_h5ad("out/A1.h5ad").n_obs
    assert n_predicted == len(rows) // 2
    assert prepare(kit, invoke, root, "--format", "st").status == 0
    section = next(s for s in read_dataset(root, "st") if s.name == "A1")
    assert len(section.grid_rc) == n_predicted


def test_f17_a_truth_of_two_sections_is_refused(kit: Kit, invoke: Invoke, predict: Predict) -> None:
    truth = anndata.read_h5ad(kit.demo / "truth.h5ad")
    counts = np.asarray(truth.X, float)
    truth.X = np.log1p(counts / np.maximum(counts.sum(1, keepdims=True), 1) * 1e4)
    other = truth.copy()
    other.X = np.asarray(other.X)[::-1].copy()
    for part, table in (("s1", truth), ("s2", other)):
        table.obs_names = [f"{name}-{part}" for name in table.obs_names]
    anndata.concat([truth, other], merge="same").write_h5ad("two.h5ad")
    spots = kit.demo / "dataset/ST-spotfiles/D1_selection.tsv"
    assert predict(kit.demo / "slide.tif", "--spots", spots).status == 0
    finished = invoke("evaluate", "out/slide.h5ad", "--truth", "two.h5ad")
    assert "two.h5ad" in finished.error


HOLD = "import h5py, sys; f = h5py.File(sys.argv[1], 'r+'); print('open', flush=True); input()"


def test_f18_a_file_that_is_open_elsewhere_is_not_predicted_again(
    kit: Kit, invoke: Invoke, predict: Predict
) -> None:
    assert predict(kit.demo / "slide.tif").status == 0
    command = [sys.executable, "-c", HOLD, "out/slide.h5ad"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        finished = invoke("convert", "out/slide.h5ad", "--to", "csv", "--genes", "GNAS")
        holder.communicate(b"\n")
    assert "predict again" not in finished.err
    assert "open" in finished.error


def test_d01_a_settings_file_of_the_folder_names_no_file_to_write(
    kit: Kit, predict: Predict
) -> None:
    mine = kit.folder / "bashrc"
    mine.write_text("# mine\n")
    Path("triplex-deploy.toml").write_text(f'[predict]\nlog-file = "{mine}"\n')
    finished = predict(kit.demo / "slide.tif")
    assert mine.read_text() == "# mine\n"
    assert "log-file" in finished.err


INDICES = [
    ("indices", 3, 10**9),
    ("indices", 3, -(10**8)),
    ("indptr", 5, 10**9),
    ("indptr", 5, -7),
]


@pytest.mark.parametrize(("key", "index", "value"), INDICES)
def test_d02_indices_that_leave_the_matrix_are_one_error(
    kit: Kit, key: str, index: int, value: int
) -> None:
    truth = truth_with(kit, key, index, value)
    folder = visium_with(kit.folder / "visium", kit.demo / "slide.tif", key, index, value)
    ends = (
        call_in_child(lambda: str(read_measured(truth).values)),
        call_in_child(lambda: str(read_dataset(folder, "visium"))),
    )
    for ended, named in zip(ends, (truth.name, "filtered_feature_bc_matrix.h5"), strict=True):
        assert ended.kind == "refused", ended
        assert named in ended.detail


def test_d06_one_wrong_tag_fails_one_slide(kit: Kit, predict: Predict) -> None:
    for name in "abc":
        write_tiff(kit.folder / f"{name}.tif", kit.pixels()[300:748, 300:748])
    patch_tag(kit.folder / "b.tif", 322, 1 << 30)
    finished = predict("a.tif", "b.tif", "c.tif", "--all-tiles")
    assert finished.status == 3
    assert "b.tif" in finished.err
    assert sorted(path.name for path in Path("out").glob("*.h5ad")) == ["a.h5ad", "c.h5ad"]


def test_the_truth_of_the_small_demo_is_read(kit: Kit) -> None:
    """The cases above start from valid input."""
    sparse = kit.truth_csr()
    assert scipy.sparse.issparse(sparse.X)
    assert len(read_measured(kit.demo / "truth.h5ad").genes) == sparse.n_vars
