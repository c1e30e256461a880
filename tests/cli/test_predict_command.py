"""``predict``: the files it leaves, and one clear line for everything that can be wrong."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.cli.conftest import Invoke
from triplex_deploy.runtime.model import RunnableBundle

HEADER = "pixel_x,pixel_y,array_row,array_col\n"


@pytest.fixture
def predict(invoke: Invoke, bundle: RunnableBundle, tmp_path: Path):
    """``predict`` with the bundle into ``tmp_path/out``."""

    def call(*arguments: object):
        return invoke("predict", *arguments, "--bundle", bundle.path, "--out", tmp_path / "out")

    return call


def _assert_refused(finished, out: Path, *named: str) -> None:
    """Exit 1, one line that says what, and nothing written."""
    assert finished.status == 1
    lines = [line for line in finished.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, finished.err
    assert "Traceback" not in finished.err
    for text in named:
        assert text in lines[0]
    assert finished.out == ""
    assert not out.exists() or list(out.iterdir()) == []


@pytest.mark.filterwarnings("ignore:Use `squidpy:FutureWarning")
@pytest.mark.filterwarnings("ignore:The set_bad function:PendingDeprecationWarning")
def test_prediction_opens_in_scanpy(predict, slide_path: Path, tmp_path: Path) -> None:
    import matplotlib as mpl
    import scanpy as sc

    mpl.use("Agg")
    finished = predict(slide_path, "--json")
    assert finished.status == 0, finished.err
    summary = json.loads(finished.out)["done"][0]
    assert summary["spots"] > 2
    assert summary["spots_per_s"] > 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["my slide.h5ad", "my slide.html", "my slide.json"]
    table = sc.read_h5ad(tmp_path / "out" / "my slide.h5ad")
    assert table.shape == (summary["spots"], 30)
    assert table.X.dtype == np.float32
    assert (
        table.obs_names[0] == f"{table.obs['array_col'].iloc[0]}x{table.obs['array_row'].iloc[0]}"
    )
    assert table.uns["triplex"]["bundle_id"] == summary["bundle_id"]
    sc.pl.spatial(table, color="GNAS", show=False)


def test_report_can_be_left_out(predict, slide_path: Path, tmp_path: Path) -> None:
    assert predict(slide_path, "--no-report", "--genes", "FASN, GNAS").status == 0
    names = sorted(path.suffix for path in (tmp_path / "out").iterdir())
    assert names == [".h5ad", ".json"]
    assert predict(slide_path).status == 0
    assert (tmp_path / "out" / "my slide.html").exists()
    assert predict(slide_path, "--no-report").status == 0
    assert not (tmp_path / "out" / "my slide.html").exists(), "an old report would mislead"


def test_progress_goes_to_stderr_and_quiet_silences_it(predict, slide_path: Path) -> None:
    finished = predict(slide_path)
    assert "encoding tiles" in finished.err
    assert "encoding tiles" not in finished.out
    quiet = predict(slide_path, "-q")
    assert (quiet.status, quiet.out, quiet.err) == (0, "", "")


def test_spots_file_without_array_coordinates_says_so(
    predict, slide_path: Path, tmp_path: Path
) -> None:
    spots = tmp_path / "spots.csv"
    rows = [f"{150 + 200 * col},{150 + 200 * row}\n" for row in range(3) for col in range(3)]
    spots.write_text("pixel_x,pixel_y\n" + "".join(rows))
    finished = predict(slide_path, "--spots", spots, "--json")
    assert finished.status == 0, finished.err
    assert "warning: " in finished.err
    assert "inferred" in finished.err
    assert "Traceback" not in finished.err
    assert json.loads(finished.out)["done"][0]["spots"] == 9


def test_mask_and_all_tiles_take_the_place_of_the_tissue(
    predict, slide_path: Path, tmp_path: Path
) -> None:
    everywhere = predict(slide_path, "--all-tiles", "--no-report", "--json")
    assert json.loads(everywhere.out)["done"][0]["spots"] == 9
    mask = np.zeros((70, 70), np.uint8)
    mask[:45, :45] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    masked = predict(slide_path, "--mask", tmp_path / "mask.png", "--no-report", "--json")
    assert json.loads(masked.out)["done"][0]["spots"] == 4


def test_unreadable_tile_is_an_error_or_skipped_and_counted(
    predict, slide_path: Path, tmp_path: Path
) -> None:
    path = tmp_path / "scratched.tif"
    path.write_bytes(slide_path.read_bytes())
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[0].aspage()
        offset, count = int(page.dataoffsets[4]), int(page.databytecounts[4])  # the middle of 3 x 3
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(count))
    _assert_refused(predict(path), tmp_path / "out", "scratched.tif", "--on-bad-tile skip")
    finished = predict(path, "--on-bad-tile", "skip", "--no-report", "--json")
    assert finished.status == 0, finished.err
    assert "warning: " in finished.err
    summary = json.loads(finished.out)["done"][0]
    assert summary["slide_tiles_unreadable"] == 1
    assert summary["spots"] > 2


def test_batch_size_is_auto_or_a_number(predict, slide_path: Path) -> None:
    assert predict(slide_path, "--batch-size", "3", "--no-report").status == 0
    assert predict(slide_path, "--batch-size", "many").status == 2
    assert predict(slide_path, "--batch-size", "0").status == 2


def test_spots_and_a_layout_contradict_each_other(
    predict, slide_path: Path, tmp_path: Path
) -> None:
    finished = predict(slide_path, "--spots", tmp_path / "s.csv", "--layout", "grid")
    _assert_refused(finished, tmp_path / "out", "layout")


def test_file_that_is_no_slide(predict, tmp_path: Path) -> None:
    path = tmp_path / "notes.svs"
    path.write_text("not a slide")
    _assert_refused(predict(path), tmp_path / "out", "notes.svs")


def test_missing_slide(predict, tmp_path: Path) -> None:
    _assert_refused(predict(tmp_path / "gone.svs"), tmp_path / "out", "gone.svs")


def test_truncated_slide(predict, slide_path: Path, tmp_path: Path) -> None:
    whole = slide_path.read_bytes()
    path = tmp_path / "cut.tif"
    path.write_bytes(whole[: len(whole) // 2])
    _assert_refused(predict(path, "--mpp", "0.5"), tmp_path / "out", "cut.tif")


def test_truncated_photograph(predict, tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (600, 600, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-20000])
    _assert_refused(predict(path, "--mpp", "0.5"), tmp_path / "out", "cut.jpg")


def test_slide_without_mpp(predict, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.new("RGB", (600, 600), (200, 120, 180)).save(path)
    _assert_refused(predict(path), tmp_path / "out", "photo.png", "--mpp")


@pytest.mark.parametrize("mpp", ["0.0005", "250", "-1"])
def test_implausible_mpp(predict, slide_path: Path, tmp_path: Path, mpp: str) -> None:
    _assert_refused(predict(slide_path, "--mpp", mpp), tmp_path / "out", mpp, "--mpp")


def test_implausible_mpp_in_the_metadata(predict, tmp_path: Path) -> None:
    path = tmp_path / "coarse.tif"
    pixels = np.full((600, 600, 3), 200, np.uint8)
    tifffile.imwrite(
        path, pixels, tile=(256, 256), photometric="rgb", resolution=(20, 20), resolutionunit=3
    )
    _assert_refused(predict(path), tmp_path / "out", "coarse.tif", "500", "--mpp")


def test_no_tissue(predict, tmp_path: Path) -> None:
    path = tmp_path / "white.png"
    Image.new("RGB", (900, 900), (245, 245, 245)).save(path)
    _assert_refused(predict(path, "--mpp", "0.5"), tmp_path / "out", "no tissue")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "spots.csv"),
        (HEADER, "spots.csv"),
        (HEADER + "100,100,0,0\n90000,100,0,1\n", "1 of 2 lie outside the slide"),
        (HEADER + "100,100,0,0\n100,100,0,1\n", "pixel position"),
        (HEADER + "100,100,0,0\n300,100,0,0\n", "array position"),
        ("x_pos,y_pos\n1,2\n", "x_pos"),
        (HEADER + "100,abc,0,0\n", "abc"),
        (HEADER + "100,,0,0\n", "spots.csv"),
        ("pixel_x,pixel_y\n300,300,0\n", "spots.csv"),
    ],
    ids=[
        "empty file",
        "header only",
        "outside",
        "same pixel",
        "same array cell",
        "wrong columns",
        "text",
        "missing value",
        "more values than columns",
    ],
)
def test_bad_spots_file(
    predict, slide_path: Path, tmp_path: Path, content: str, named: str
) -> None:
    spots = tmp_path / "spots.csv"
    spots.write_text(content)
    _assert_refused(predict(slide_path, "--spots", spots), tmp_path / "out", named)


def test_gene_the_bundle_lacks(predict, slide_path: Path, tmp_path: Path) -> None:
    finished = predict(slide_path, "--genes", "GNSA")
    _assert_refused(finished, tmp_path / "out", "GNSA", "did you mean GNAS?")


def test_bundle_with_one_byte_changed(
    invoke: Invoke, bundle: RunnableBundle, slide_path: Path, tmp_path: Path
) -> None:
    import shutil

    damaged = tmp_path / "bundle"
    shutil.copytree(bundle.path, damaged)
    path = damaged / "neighbor_encoder.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    out = tmp_path / "out"
    for command in (
        ("predict", slide_path, "--bundle", damaged, "--out", out),
        ("verify", damaged),
    ):
        _assert_refused(invoke(*command), out, "neighbor_encoder.onnx: altered")


def test_output_folder_that_cannot_be_written(
    invoke: Invoke, bundle: RunnableBundle, slide_path: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    out = tmp_path / "file" / "out"
    finished = invoke("predict", slide_path, "--bundle", bundle.path, "--out", out)
    assert finished.status == 1
    assert finished.err.startswith("error: ")
    assert "choose another --out" in finished.err
    assert (tmp_path / "file").read_text() == "mine"


def test_somebody_elses_table_is_never_overwritten(
    predict, slide_path: Path, tmp_path: Path
) -> None:
    import anndata

    out = tmp_path / "out"
    out.mkdir()
    measured = out / "my slide.h5ad"
    anndata.AnnData(np.ones((3, 2), np.float32)).write_h5ad(measured)
    before = measured.read_bytes()
    finished = predict(slide_path)
    assert finished.status == 1
    assert "is no prediction of ours" in finished.err
    assert measured.read_bytes() == before
    measured.unlink()
    assert predict(slide_path, "--no-report").status == 0
    assert predict(slide_path, "--no-report").status == 0, "our own prediction may be renewed"


def test_bundle_is_no_place_for_predictions(
    invoke: Invoke, bundle: RunnableBundle, slide_path: Path
) -> None:
    finished = invoke("predict", slide_path, "--bundle", bundle.path, "--out", bundle.path)
    assert finished.status == 1
    assert "is a bundle" in finished.err


def test_failure_is_json_where_json_was_asked_for(predict, invoke: Invoke, tmp_path: Path) -> None:
    summary = json.loads(predict(tmp_path / "gone.svs", "--json").out)
    assert summary["done"] == []
    assert summary["failed"][0]["slide"].endswith("gone.svs")
    verified = invoke("verify", tmp_path / "nothing", "--json")
    assert verified.status == 1
    assert "not a bundle" in json.loads(verified.out)["error"]


def test_one_bad_slide_of_several_does_not_stop_the_others(
    predict, slide_path: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.svs"
    bad.write_text("not a slide")
    finished = predict(bad, slide_path, "--no-report", "--json")
    assert finished.status == 3
    summary = json.loads(finished.out)
    assert [Path(entry["slide"]).name for entry in summary["done"]] == ["my slide.tif"]
    assert [Path(entry["slide"]).name for entry in summary["failed"]] == ["bad.svs"]
    assert (tmp_path / "out" / "my slide.h5ad").exists()
    assert not (tmp_path / "out" / "bad.h5ad").exists()


def test_bug_on_one_slide_does_not_stop_the_others(
    predict, slide_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from triplex_deploy.pipeline import predict as pipeline

    real = pipeline.predict_slide

    def fails_on_the_first(slide: Path, *rest: object) -> object:
        if slide.name == "first.tif":
            raise RuntimeError("a bug of ours")
        return real(slide, *rest)

    monkeypatch.setattr(pipeline, "predict_slide", fails_on_the_first)
    finished = predict(tmp_path / "first.tif", slide_path, "--no-report", "--json")
    assert finished.status == 3
    assert "a bug of ours" in json.loads(finished.out)["failed"][0]["error"]
    assert (tmp_path / "out" / "my slide.h5ad").exists()


def test_slides_of_one_name_are_refused(predict, slide_path: Path, tmp_path: Path) -> None:
    other = tmp_path / slide_path.name
    _assert_refused(predict(slide_path, other), tmp_path / "out", "two slides share this name")


def test_one_spots_file_for_two_slides_is_refused(
    predict, slide_path: Path, tmp_path: Path
) -> None:
    finished = predict(slide_path, tmp_path / "b.svs", "--spots", tmp_path / "s.csv")
    _assert_refused(finished, tmp_path / "out", "belongs to one slide")


def test_failure_while_predicting_leaves_nothing(
    predict, slide_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from triplex_deploy.errors import OutputError
    from triplex_deploy.outputs import files

    def full_disk(*_: object) -> None:
        raise OutputError("disk full; free some space")

    monkeypatch.setattr(files, "write_report", full_disk)
    finished = predict(slide_path)
    assert finished.status == 1
    assert list((tmp_path / "out").iterdir()) == []


def test_interrupt_exits_with_one_line(
    predict, slide_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from triplex_deploy.pipeline import predict as pipeline

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "encode_tiles", interrupted)
    finished = predict(slide_path)
    assert finished.status == 130
    assert "error: interrupted" in finished.err
    assert list((tmp_path / "out").iterdir()) == []


def test_missing_option_is_a_usage_error(invoke: Invoke, slide_path: Path) -> None:
    finished = invoke("predict", slide_path)
    assert finished.status == 2
    assert "--bundle" in finished.err
