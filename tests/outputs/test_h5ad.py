import errno
import os
import pickle
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from triplex_deploy.errors import OutputError
from triplex_deploy.files import atomic
from triplex_deploy.outputs import Prediction
from triplex_deploy.outputs.h5ad import read_prediction


def test_round_trip_keeps_every_field(prediction: Prediction, tmp_path: Path) -> None:
    prediction.write_h5ad(tmp_path / "a.h5ad")
    back = read_prediction(tmp_path / "a.h5ad")
    for name in ("expression", "level0_xy", "grid_rc", "thumbnail"):
        np.testing.assert_array_equal(getattr(back, name), getattr(prediction, name))
        assert getattr(back, name).dtype == getattr(prediction, name).dtype
    for name in ("slide_name", "genes", "slide_size_wh", "slide_mpp", "spot_diameter_px", "run"):
        assert getattr(back, name) == getattr(prediction, name)


def test_other_programs_find_the_names_they_expect(prediction: Prediction, tmp_path: Path) -> None:
    import anndata

    prediction.write_h5ad(tmp_path / "a.h5ad")
    table = anndata.read_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad") as file:
        assert set(file) == {"X", "layers", "obs", "obsm", "obsp", "uns", "var", "varm", "varp"}
        assert file["X"].compression == "gzip"
    assert table.X.dtype == np.float32
    assert list(table.var_names) == ["GNAS", "FASN", "ERBB2"]
    assert list(table.obs_names[5:8]) == ["5x0", "0x1", "1x1"]
    assert table.obs.loc["1x2"].to_dict() == {
        "in_tissue": 1,
        "array_row": 2,
        "array_col": 1,
        "pxl_row_in_fullres": 1156.0,
        "pxl_col_in_fullres": 748.5,
    }
    np.testing.assert_array_equal(table.obsm["spatial"][13], [748.5, 1156.0])
    library = table.uns["spatial"]["section A"]
    assert library["images"]["hires"].shape == (600, 800, 3)
    assert library["images"]["lowres"].shape == (450, 600, 3)
    assert library["scalefactors"] == {
        "tissue_hires_scalef": 0.25,
        "tissue_lowres_scalef": 0.1875,
        "spot_diameter_fullres": 448.0,
        "fiducial_diameter_fullres": pytest.approx(723.69, abs=0.01),
    }


def test_barcodes_are_kept_beside_the_names(prediction: Prediction, tmp_path: Path) -> None:
    import anndata

    barcodes = tuple(f"ACGT{i:02}-1" for i in range(30))
    replace(prediction, barcodes=barcodes).write_h5ad(tmp_path / "a.h5ad")
    table = anndata.read_h5ad(tmp_path / "a.h5ad")
    assert list(table.obs["barcode"]) == list(barcodes)
    assert table.obs_names[6] == "0x1"
    assert read_prediction(tmp_path / "a.h5ad").barcodes == barcodes
    prediction.write_h5ad(tmp_path / "b.h5ad")
    assert "barcode" not in anndata.read_h5ad(tmp_path / "b.h5ad").obs
    assert read_prediction(tmp_path / "b.h5ad").barcodes == ()


def test_run_facts_are_readable_as_plain_values(prediction: Prediction, tmp_path: Path) -> None:
    import anndata

    prediction.write_h5ad(tmp_path / "a.h5ad")
    facts = anndata.read_h5ad(tmp_path / "a.h5ad").uns["triplex"]
    assert facts["bundle_id"] == "sha256:0f3a"
    assert facts["bundle_mpp"] == 0.5
    assert not facts["resampled"]
    assert facts["timings"]["encode_s"] == 7.5
    assert facts["versions"]["onnxruntime"] == "1.22.0"


def test_scanpy_draws_the_prediction(prediction: Prediction, tmp_path: Path) -> None:
    scanpy = pytest.importorskip("scanpy")
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    mpl.use("Agg")
    prediction.write_h5ad(tmp_path / "a.h5ad")
    table = scanpy.read_h5ad(tmp_path / "a.h5ad")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Use `squidpy.pl.spatial_scatter`")
        warnings.filterwarnings("ignore", message="The set_bad function")
        axes = scanpy.pl.spatial(table, color="GNAS", show=False)
    try:
        assert axes[0].get_title() == "GNAS"
        assert axes[0].get_images()[0].get_array().shape == (600, 800, 3)
        drawn = np.asarray(axes[0].collections[0].get_array())  # lowest first, scanpy's order
        np.testing.assert_allclose(drawn, np.sort(prediction.expression[:, 0]))
    finally:
        plt.close("all")


def test_an_earlier_result_is_replaced(prediction: Prediction, tmp_path: Path) -> None:
    target = tmp_path / "a.h5ad"
    target.write_text("old")
    prediction.write_h5ad(target)
    assert read_prediction(target).n_spots == 30
    assert list(tmp_path.iterdir()) == [target]


def test_a_failed_write_leaves_the_earlier_result_and_no_temporary_file(
    prediction: Prediction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_disk(self: Path, *_: object) -> None:
        self.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = tmp_path / "a.h5ad"
    target.write_text("old")
    monkeypatch.setattr(atomic, "_flush_to_disk", fill_disk)
    with pytest.raises(OutputError, match=r"No space left on device.*free space"):
        prediction.write_h5ad(target)
    assert list(tmp_path.iterdir()) == [target]
    assert target.read_text() == "old"


FILL_DISK = """
import pickle, resource, signal, sys
from triplex_deploy.errors import OutputError
prediction = pickle.load(sys.stdin.buffer)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    prediction.write_h5ad(sys.argv[1])
except OutputError as error:
    sys.exit(f"OutputError: {error}")
"""


def test_a_write_cut_short_is_one_clean_error(prediction: Prediction, tmp_path: Path) -> None:
    """HDF5 on a full disk fails again while it closes the file, and then crashes the process."""
    target = tmp_path / "a.h5ad"
    done = subprocess.run(
        [sys.executable, "-c", FILL_DISK, str(target)],
        input=pickle.dumps(prediction),
        capture_output=True,
        check=False,
    )
    message = done.stderr.decode()
    assert done.returncode == 1
    assert message.count("\n") == 1
    assert message.startswith(f"OutputError: {target}: cannot be written (File too large, ")
    assert " MB free); check" in message
    assert list(tmp_path.iterdir()) == []


def test_folders_that_cannot_take_the_file_are_named(
    prediction: Prediction, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file is not a folder"):
        prediction.write_h5ad(tmp_path / "file" / "a.h5ad")
    (tmp_path / "file").unlink()
    with pytest.raises(OutputError, match="is a folder; give the name of a file"):
        prediction.write_h5ad(tmp_path)
    with pytest.raises(OutputError, match="cannot be written"):
        prediction.write_h5ad(tmp_path / ("n" * 300))
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_folder_is_named(
    prediction: Prediction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(OutputError, match="not writable; choose another folder"):
        prediction.write_h5ad(tmp_path / "a.h5ad")


def test_foreign_files_are_refused(prediction: Prediction, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no such file"):
        read_prediction(tmp_path / "absent.h5ad")
    (tmp_path / "text.h5ad").write_text("not HDF5")
    with pytest.raises(OutputError, match=r"cannot be read as HDF5.*give the right prediction"):
        read_prediction(tmp_path / "text.h5ad")
    with pytest.raises(OutputError, match=r"is a folder; give an \.h5ad"):
        read_prediction(tmp_path)
    table = prediction.to_anndata()
    table.uns["triplex"]["schema"] = "triplex-prediction/2"
    table.write_h5ad(tmp_path / "newer.h5ad")
    with pytest.raises(OutputError, match="newer than this version reads; upgrade"):
        read_prediction(tmp_path / "newer.h5ad")
    del table.uns["triplex"]
    table.write_h5ad(tmp_path / "foreign.h5ad")
    with pytest.raises(OutputError, match="not a prediction of this package"):
        read_prediction(tmp_path / "foreign.h5ad")


def test_an_altered_prediction_is_refused(prediction: Prediction, tmp_path: Path) -> None:
    table = prediction.to_anndata()
    del table.obs["array_row"]
    table.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(OutputError, match="altered since it was written"):
        read_prediction(tmp_path / "a.h5ad")


def test_a_subset_made_in_scanpy_is_still_a_prediction(
    prediction: Prediction, tmp_path: Path
) -> None:
    prediction.to_anndata()[5:9, ["FASN"]].copy().write_h5ad(tmp_path / "a.h5ad")
    back = read_prediction(tmp_path / "a.h5ad")
    assert back.genes == ("FASN",)
    np.testing.assert_array_equal(back.expression, prediction.expression[5:9, 1:2])


def test_writing_leaves_the_prediction_untouched(prediction: Prediction, tmp_path: Path) -> None:
    twin = replace(prediction, expression=prediction.expression.copy())
    prediction.write_h5ad(tmp_path / "a.h5ad")
    np.testing.assert_array_equal(prediction.expression, twin.expression)


def test_the_tissue_picture_is_kept_small(prediction: Prediction, tmp_path: Path) -> None:
    rows = (np.arange(1000) // 4).astype(np.uint8)
    overlay = np.repeat(np.repeat(rows[:, None, None], 600, axis=1), 3, axis=2)
    replace(prediction, tissue_overlay=overlay).write_h5ad(tmp_path / "a.h5ad")
    kept = read_prediction(tmp_path / "a.h5ad").tissue_overlay
    assert kept is not None
    assert kept.shape == (800, 480, 3)
    assert int(kept[400, 0, 0]) == 125
    prediction.write_h5ad(tmp_path / "b.h5ad")
    assert read_prediction(tmp_path / "b.h5ad").tissue_overlay is None
