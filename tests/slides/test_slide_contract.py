"""Run the same tests over every slide reader."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.slides.zarr_images import write_ome_zarr
from triplex_deploy.errors import SlideError
from triplex_deploy.slides import Slide, open_slide

WIDTH, HEIGHT = 300, 200
SYNTHETIC = (
    "jpeg",
    "png",
    "strips.tif",
    "planar.tif",
    "pyramid.ome.tif",
    "tiled.tif",
    "0.4.zarr",
    "0.5.zarr",
)
REAL = {
    "aperio": "slides/CMU-1-Small-Region.svs",
    "dicom": "slides/dicom_cmu1_small/level-2-frames-0-4.dcm",
    "hamamatsu": "slides/test3-DAPI-2-387.ndpi",
    "generic-tiff": "slides/openslide_boxes.tiff",
    "untiled tiff": "slides/kidney-48-5.tif",
    "ome-tiff": "slides/OS-1-detail.ome.tif",
    "visium jpeg": "visium/squidpy_test/test_img.jpg",
}


def picture() -> np.ndarray:
    rng = np.random.default_rng(7)
    coarse = rng.integers(0, 256, (HEIGHT // 20, WIDTH // 20, 3), np.uint8)
    return np.kron(coarse, np.ones((20, 20, 1), np.uint8))


def write(kind: str, folder: Path) -> Path:
    path = folder / f"slide.{kind}"
    rgb = picture()
    if kind in ("jpeg", "png"):
        Image.fromarray(rgb).save(path)
    elif kind == "strips.tif":
        tifffile.imwrite(path, rgb, photometric="rgb", rowsperstrip=7, compression="lzw")
    elif kind == "planar.tif":
        planes = np.moveaxis(rgb, 2, 0)
        tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate", rowsperstrip=33)
    elif kind.endswith(".zarr"):
        write_ome_zarr(path, rgb, kind.removesuffix(".zarr"))
    elif kind == "tiled.tif":
        tifffile.imwrite(path, rgb, photometric="rgb", tile=(64, 48), compression="zlib")
    else:
        with tifffile.TiffWriter(path, ome=True) as writer:
            options: dict[str, Any] = {
                "photometric": "rgb",
                "tile": (64, 64),
                "compression": "zlib",
            }
            writer.write(rgb, subifds=1, metadata={"axes": "YXS"}, **options)
            writer.write(rgb[::2, ::2], subfiletype=1, **options)
    return path


@pytest.fixture(params=[*SYNTHETIC, *REAL])
def slide(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Slide]:
    if request.param in SYNTHETIC:
        path = write(request.param, tmp_path)
    else:
        path = request.getfixturevalue("shared_data") / REAL[request.param]
    with open_slide(path) as opened:
        yield opened


def test_levels_shrink_and_have_downsamples(slide: Slide) -> None:
    assert slide.level_downsamples[0] == 1.0
    assert len(slide.level_downsamples) == len(slide.level_sizes)
    width, height = slide.level_sizes[0]
    for (w, h), downsample in zip(slide.level_sizes, slide.level_downsamples, strict=True):
        assert (width / w + height / h) / 2 == pytest.approx(downsample)


def test_pixels_outside_the_level_are_zero(slide: Slide) -> None:
    for level, (width, height) in enumerate(slide.level_sizes[:2]):
        inside = slide.read(level, 0, 0, 20, 10)
        around = slide.read(level, -5, -3, 20, 10)
        assert around.shape == (10, 20, 3)
        assert around.dtype == np.uint8
        assert not around[:3].any()
        assert not around[:, :5].any()
        assert np.array_equal(around[3:, 5:], inside[:7, :15])
        corner = slide.read(level, width - 4, height - 2, 20, 10)
        assert not corner[2:].any()
        assert not corner[:, 4:].any()
        assert np.array_equal(corner[:2, :4], slide.read(level, width - 4, height - 2, 4, 2))
        assert not slide.read(level, width, 0, 5, 5).any()
        assert not slide.read(level, -50, -50, 5, 5).any()


def test_reading_in_parts_equals_reading_the_whole(slide: Slide) -> None:
    for level in range(min(3, len(slide.level_sizes))):
        width, height = (min(side, 400) for side in slide.level_sizes[level])
        whole = slide.read(level, 0, 0, width, height)
        for top in range(0, height, 131):
            for left in range(0, width, 93):
                part = slide.read(level, left, top, min(93, width - left), min(131, height - top))
                assert np.array_equal(part, whole[top : top + 131, left : left + 93])


def test_threads_read_the_same_pixels(slide: Slide) -> None:
    windows = [(x, y) for x in range(0, 160, 40) for y in range(0, 160, 40)] * 3
    expected = {(x, y): slide.read(0, x, y, 50, 50) for x, y in windows}
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda xy: slide.read(0, xy[0], xy[1], 50, 50), windows))
    for window, pixels in zip(windows, found, strict=True):
        assert np.array_equal(pixels, expected[window])


def test_the_caller_owns_what_it_reads(slide: Slide) -> None:
    first = slide.read(0, 0, 0, 30, 30)
    kept = first.copy()
    first[:] = 77
    assert np.array_equal(slide.read(0, 0, 0, 30, 30), kept)


def test_empty_window_is_empty(slide: Slide) -> None:
    assert slide.read(0, 3, 3, 0, 5).shape == (5, 0, 3)


def test_unknown_level_and_negative_size_are_refused(slide: Slide) -> None:
    with pytest.raises(SlideError, match=f"no level {len(slide.level_sizes)}"):
        slide.read(len(slide.level_sizes), 0, 0, 1, 1)
    with pytest.raises(SlideError, match="negative"):
        slide.read(0, 0, 0, -1, 1)


def test_closed_slide_refuses_to_read(slide: Slide) -> None:
    slide.read(0, 0, 0, 4, 4)
    slide.close()
    slide.close()
    with pytest.raises(SlideError, match="closed"):
        slide.read(0, 0, 0, 4, 4)


@pytest.mark.parametrize(
    "kind", ["png", "strips.tif", "planar.tif", "pyramid.ome.tif", "tiled.tif"]
)
def test_lossless_formats_return_the_pixels_written(kind: str, tmp_path: Path) -> None:
    with open_slide(write(kind, tmp_path)) as slide:
        assert slide.level_sizes[0] == (WIDTH, HEIGHT)
        assert np.array_equal(slide.read(0, 0, 0, WIDTH, HEIGHT), picture())


def test_closing_waits_for_readers(tmp_path: Path) -> None:
    with open_slide(write("strips.tif", tmp_path)) as slide, ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(slide.read, 0, 0, 0, WIDTH, HEIGHT) for _ in range(40)]
        slide.close()
    for job in jobs:
        error = job.exception()
        assert error is None or isinstance(error, SlideError)
