"""Everything that can be wrong with a prediction: one clear line, exit 1, nothing written."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.cli.conftest import Invoke, assert_refused
from triplex_deploy.runtime.model import RunnableBundle

HEADER = "pixel_x,pixel_y,array_row,array_col\n"


def test_spots_and_a_layout_contradict_each_other(
    predict, slide_path: Path, tmp_path: Path
) -> None:
    finished = predict(slide_path, "--spots", tmp_path / "s.csv", "--layout", "grid")
    assert_refused(finished, tmp_path / "out", "layout")


def test_file_that_is_no_slide(predict, tmp_path: Path) -> None:
    path = tmp_path / "notes.svs"
    path.write_text("not a slide")
    assert_refused(predict(path), tmp_path / "out", "notes.svs")


def test_missing_slide(predict, tmp_path: Path) -> None:
    assert_refused(predict(tmp_path / "gone.svs"), tmp_path / "out", "gone.svs")


def test_truncated_slide(predict, slide_path: Path, tmp_path: Path) -> None:
    whole = slide_path.read_bytes()
    path = tmp_path / "cut.tif"
    path.write_bytes(whole[: len(whole) // 2])
    assert_refused(predict(path, "--mpp", "0.5"), tmp_path / "out", "cut.tif")


def test_truncated_photograph(predict, tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (600, 600, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-20000])
    assert_refused(predict(path, "--mpp", "0.5"), tmp_path / "out", "cut.jpg")


def test_slide_without_mpp(predict, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.new("RGB", (600, 600), (200, 120, 180)).save(path)
    assert_refused(predict(path), tmp_path / "out", "photo.png", "--mpp")


@pytest.mark.parametrize("mpp", ["0.0005", "250", "-1"])
def test_implausible_mpp(predict, slide_path: Path, tmp_path: Path, mpp: str) -> None:
    assert_refused(predict(slide_path, "--mpp", mpp), tmp_path / "out", mpp, "--mpp")


def test_implausible_mpp_in_the_metadata(predict, tmp_path: Path) -> None:
    path = tmp_path / "coarse.tif"
    pixels = np.full((600, 600, 3), 200, np.uint8)
    tifffile.imwrite(
        path, pixels, tile=(256, 256), photometric="rgb", resolution=(20, 20), resolutionunit=3
    )
    assert_refused(predict(path), tmp_path / "out", "coarse.tif", "500", "--mpp")


def test_no_tissue(predict, tmp_path: Path) -> None:
    path = tmp_path / "white.png"
    Image.new("RGB", (900, 900), (245, 245, 245)).save(path)
    assert_refused(predict(path, "--mpp", "0.5"), tmp_path / "out", "no tissue")


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
    assert_refused(predict(slide_path, "--spots", spots), tmp_path / "out", named)


def test_gene_the_bundle_lacks(predict, slide_path: Path, tmp_path: Path) -> None:
    finished = predict(slide_path, "--genes", "GNSA")
    assert_refused(finished, tmp_path / "out", "GNSA", "did you mean GNAS?")


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
        assert_refused(invoke(*command), out, "neighbor_encoder.onnx: altered")


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
    assert "is not a prediction" in finished.err
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


def test_slides_of_one_name_are_refused(predict, slide_path: Path, tmp_path: Path) -> None:
    other = tmp_path / slide_path.name
    assert_refused(predict(slide_path, other), tmp_path / "out", "two slides share this name")


def test_file_of_one_slide_for_two_slides_is_refused(
    predict, slide_path: Path, tmp_path: Path
) -> None:
    for option in ("--spots", "--mask"):
        finished = predict(slide_path, tmp_path / "b.svs", option, tmp_path / "file")
        assert_refused(finished, tmp_path / "out", f"{option} ", "belongs to one slide")


@pytest.mark.parametrize("option", ["--out", "--bundle", "--spots", "--stage-dir"])
def test_a_url_of_anything_but_a_slide_is_a_usage_error(
    invoke: Invoke, slide_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"--bundle": "bundle", "--out": "out", option: "s3://user:secret@bucket/there"}
    words = [word for pair in options.items() for word in pair]
    finished = invoke("predict", str(slide_path), *words)
    assert finished.status == 2
    assert f"'{option}': s3://bucket/there: is a URL; give a path" in finished.err
    assert not (tmp_path / "s3:").exists()


def test_missing_option_is_a_usage_error(invoke: Invoke, slide_path: Path) -> None:
    finished = invoke("predict", slide_path)
    assert finished.status == 2
    assert "--bundle" in finished.err
