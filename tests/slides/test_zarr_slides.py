"""OME-Zarr images as slides; what all readers have in common is in test_slide_contract.py."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

zarr = pytest.importorskip("zarr")
import numcodecs  # noqa: E402
from zarr.codecs import BloscCodec  # noqa: E402

from tests.slides.zarr_images import AXES, multiscale, write_metadata, write_ome_zarr  # noqa: E402
from triplex_deploy.cohort.inputs import find_slides  # noqa: E402
from triplex_deploy.errors import SlideError  # noqa: E402
from triplex_deploy.slides import open_slide  # noqa: E402
from triplex_deploy.slides.zarr_blosc import DESCRIPTIONS  # noqa: E402
from triplex_deploy.slides.zarr_reader import ZarrReader  # noqa: E402


def picture(width: int = 300, height: int = 200) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_pixels_levels_and_scale(tmp_path: Path, version: str) -> None:
    rgb = picture()
    with open_slide(write_ome_zarr(tmp_path / "a.ome.zarr", rgb, version)) as slide:
        assert slide.format == "ome-zarr"
        assert slide.level_sizes == ((300, 200), (150, 100))
        assert slide.mpp == 0.5
        assert np.array_equal(slide.read(0, 0, 0, 300, 200), rgb)
        assert np.array_equal(slide.read(1, 10, 5, 50, 40), rgb[10:90:2, 20:120:2])
        assert len(slide.digest()) == 64


def test_shards_and_common_codecs_are_read(tmp_path: Path) -> None:
    rgb = picture()
    path = write_ome_zarr(tmp_path / "a.zarr", rgb, shards=(3, 128, 128))
    with open_slide(path) as slide:
        assert np.array_equal(slide.read(0, 0, 0, 300, 200), rgb)


def test_chunks_of_the_size_of_tiles_are_segments(tmp_path: Path) -> None:
    rgb = picture(700, 600)
    with open_slide(write_ome_zarr(tmp_path / "a.zarr", rgb, chunks=(3, 256, 256))) as slide:
        grid = slide.segment_grid(0)
        assert (grid.width_px, grid.height_px, grid.columns, grid.rows) == (256, 256, 3, 3)
        out = np.empty((256, 256, 3), np.uint8)
        slide.read_segment(0, 2, 2, out)
        assert np.array_equal(out[:88, :188], rgb[512:, 512:])


@pytest.mark.parametrize("order", ["tczyx", "yxc", "yx", "cyx"])
def test_axes_in_any_order(tmp_path: Path, order: str) -> None:
    rgb = picture()
    if "c" not in order:
        rgb[:] = rgb[..., :1]
    axes = [{"name": name, "unit": "micrometer"} for name in order]
    image = multiscale(0.25, axes)
    image["datasets"] = image["datasets"][:1]
    image["datasets"][0]["coordinateTransformations"][0]["scale"] = [0.25] * len(order)
    whole = rgb[None, None] if order == "tczyx" else rgb  # (t, z, y, x, c)
    source = "tzyxc" if order == "tczyx" else "yxc"
    values = whole if "c" in order else whole[..., 0]
    values = values.transpose([source.index(name) for name in order])
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=3)
    group.create_array("0", data=np.ascontiguousarray(values))
    write_metadata(tmp_path / "a.zarr", image, "0.5")
    with open_slide(tmp_path / "a.zarr") as slide:
        assert slide.mpp == 0.25
        assert np.array_equal(slide.read(0, 30, 20, 100, 90), rgb[20:110, 30:130])


@pytest.mark.parametrize(
    ("unit", "um", "mpp"),
    [("nanometer", 500.0, 0.5), ("millimeter", 0.0005, 0.5), (None, 0.5, None), ("pixel", 1, None)],
)
def test_the_scale_follows_the_unit(
    tmp_path: Path, unit: str | None, um: float, mpp: float | None
) -> None:
    path = write_ome_zarr(tmp_path / "a.zarr", picture())
    axes = [{**axis, "unit": unit} for axis in AXES]
    write_metadata(path, multiscale(um, axes), "0.5")
    with open_slide(path) as slide:
        assert slide.mpp == (None if mpp is None else pytest.approx(mpp))


def test_an_unknown_transformation_leaves_the_scale_unknown(tmp_path: Path) -> None:
    path = write_ome_zarr(tmp_path / "a.zarr", picture())
    image = {**multiscale(), "coordinateTransformations": [{"type": "affine", "affine": []}]}
    write_metadata(path, image, "0.5")
    with open_slide(path) as slide:
        assert slide.mpp is None


def test_of_several_images_the_slide_is_the_largest(tmp_path: Path) -> None:
    root = tmp_path / "a.zarr"
    zarr.open_group(root, mode="w", zarr_format=2)
    (root / ".zattrs").write_text('{"bioformats2raw.layout": 3}')
    write_ome_zarr(root / "0", picture(100, 80), "0.4")
    write_ome_zarr(root / "1", picture(), "0.4")
    with open_slide(root) as slide:
        assert slide.level_sizes[0] == (300, 200)
    write_ome_zarr(root / "2", picture(290, 200), "0.4")
    with pytest.raises(SlideError, match="several images"):
        open_slide(root)


def test_folders_of_slides_hold_ome_zarr(tmp_path: Path) -> None:
    write_ome_zarr(tmp_path / "a.ome.zarr", picture())
    (tmp_path / "b.svs").touch()
    assert [entry.output for entry in find_slides([tmp_path], recursive=True)] == ["a", "b"]
    assert [entry.slide.name for entry in find_slides([tmp_path / "a.ome.zarr"])] == ["a.ome.zarr"]
    (tmp_path / "list.csv").write_text("slide\na.ome.zarr\n")
    assert [entry.output for entry in find_slides([tmp_path / "list.csv"])] == ["a"]


def test_a_chunk_that_was_replaced_is_noticed(tmp_path: Path) -> None:
    path = write_ome_zarr(tmp_path / "a.zarr", picture())
    with open_slide(path) as slide:
        (path / "0" / "c" / "0" / "0" / "0").write_bytes(b"other")
        with pytest.raises(SlideError, match="replaced"):
            slide.require_unchanged()


def _edit(path: Path, change: dict[str, Any]) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **change}))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"data_type": "uint16"}, "8 bits"),
        ({"shape": [3, 1 << 40, 1 << 40]}, "a side of"),
        ({"shape": [3, 0, 10]}, "shape"),
        ({"shape": [3, 10]}, "shape"),
        ({"shape": [4, 200, 300]}, "4 channels"),
        ({"shape": "big"}, "wrong OME metadata"),
        ({"codecs": [{"name": "pickle"}]}, "codec 'pickle'"),
        ({"codecs": [{"name": "numcodecs.pickle"}]}, "codec 'numcodecs.pickle'"),
        ({"codecs": 5}, "wrong OME metadata"),
        (
            {
                "chunk_grid": {
                    "name": "regular",
                    "configuration": {"chunk_shape": [1, 1 << 20, 999]},
                }
            },
            "chunks of",
        ),
        (
            {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, 0, 9]}}},
            "chunks of",
        ),
        ({"chunk_grid": {"name": "rectilinear"}}, "chunks 'rectilinear'"),
    ],
)
def test_arrays_that_no_slide_has_are_refused(
    tmp_path: Path, change: dict[str, Any], why: str
) -> None:
    path = write_ome_zarr(tmp_path / "a.zarr", picture())
    _edit(path / "0" / "zarr.json", change)
    with pytest.raises(SlideError, match=why):
        open_slide(path)


def test_a_filter_that_could_run_code_is_refused(tmp_path: Path) -> None:
    path = write_ome_zarr(tmp_path / "a.zarr", picture(), "0.4")
    _edit(path / "0" / ".zarray", {"filters": [{"id": "pickle", "protocol": 5}]})
    with pytest.raises(SlideError, match="codec 'pickle'"):
        open_slide(path)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize(
    ("image", "why"),
    [
        ({}, "wrong OME metadata"),
        ({**multiscale(), "datasets": []}, "no level"),
        ({**multiscale(), "datasets": [{"path": "../../other"}]}, "leads out"),
        ({**multiscale(), "datasets": [{"path": "/etc"}]}, "leads out"),
        ({**multiscale(), "datasets": [{"path": "9"}]}, "no such file of OME-Zarr"),
        ({**multiscale(), "axes": ["c", "y", "q"]}, "axes are"),
        ({**multiscale(), "axes": ["c", "y", "y"]}, "axes are"),
        ({**multiscale(), "axes": ["z", "y", "x"]}, "stack"),
        ({**multiscale(), "datasets": multiscale()["datasets"][::-1]}, "fine to coarse"),
    ],
)
def test_wrong_metadata_are_one_error(
    tmp_path: Path, version: str, image: dict[str, Any], why: str
) -> None:
    path = write_ome_zarr(tmp_path / "a.zarr", picture(), version)
    write_metadata(path, image, version)
    with pytest.raises(SlideError, match=why) as caught:
        open_slide(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe\x00", b'{"attributes": 3}'])
def test_damaged_json_is_one_error(tmp_path: Path, content: bytes) -> None:
    path = write_ome_zarr(tmp_path / "a.zarr", picture())
    (path / "zarr.json").write_bytes(content)
    with pytest.raises(SlideError):
        open_slide(path)


def test_damaged_and_missing_chunks(tmp_path: Path) -> None:
    rgb = picture()
    path = write_ome_zarr(tmp_path / "a.zarr", rgb, chunks=(3, 64, 64))
    chunks = sorted(part for part in (path / "0" / "c").rglob("*") if part.is_file())
    chunks[0].write_bytes(chunks[0].read_bytes()[:20])
    chunks[1].unlink()
    with open_slide(path) as slide:
        with pytest.raises(SlideError, match="failed"):
            slide.read(0, 0, 0, 10, 10)
        assert not slide.read(0, 64, 0, 64, 64).any()  # Zarr leaves out chunks of the fill value


@pytest.mark.parametrize("cut", [5, 40])
@pytest.mark.parametrize(
    ("version", "array"),
    [
        ("0.4", {"compressors": numcodecs.Blosc("zstd")}),
        ("0.5", {"compressors": BloscCodec()}),
        ("0.5", {"compressors": BloscCodec(), "shards": (3, 128, 128)}),
    ],
    ids=["zarr 2", "zarr 3", "shards"],
)
def test_a_cut_blosc_chunk_is_not_decoded(
    tmp_path: Path, version: str, array: dict[str, Any], cut: int
) -> None:
    """Blosc reads as far as a chunk's header says, beyond the end of the chunk."""
    path = write_ome_zarr(tmp_path / "a.zarr", picture(), version, chunks=(3, 64, 64), **array)
    with open_slide(path) as slide:
        assert slide.read(0, 0, 0, 64, 64).any()
    for file in (path / "0").rglob("*"):
        if file.is_file() and file.name not in DESCRIPTIONS:
            content = file.read_bytes()
            if "shards" in array:  # the header of the first chunk says more than the index does
                length = int.from_bytes(content[12:16], "little")
                content = content[:12] + (length + cut).to_bytes(4, "little") + content[16:]
            file.write_bytes(content if "shards" in array else content[:-cut])
    with open_slide(path) as slide, pytest.raises(SlideError, match=r"Blosc chunk.*bytes"):
        slide.read(0, 0, 0, 64, 64)


def test_without_zarr_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_ome_zarr(tmp_path / "a.zarr", picture())
    monkeypatch.setitem(__import__("sys").modules, "zarr", None)
    with pytest.raises(SlideError, match=r"zarr; run .*\[zarr\]"):
        ZarrReader.open(path)


def test_a_spatialdata_store_names_its_images(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    write_ome_zarr(path / "images" / "he", picture(), "0.5")
    (path / "zarr.json").write_text('{"attributes": {}, "zarr_format": 3, "node_type": "group"}')
    with pytest.raises(SlideError, match=r"pass an image in it: .*s\.zarr/images/he$"):
        open_slide(path)


def test_a_plate_is_refused(tmp_path: Path) -> None:
    path = write_ome_zarr(tmp_path / "a.zarr", picture(), "0.4")
    (path / ".zattrs").write_text('{"plate": {"wells": []}}')
    with pytest.raises(SlideError, match="is a plate"):
        open_slide(path)
    shutil.rmtree(path)
