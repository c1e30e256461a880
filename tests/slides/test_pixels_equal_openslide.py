"""Every reader gives OpenSlide's pixels."""

from pathlib import Path

import numpy as np
import openslide
import pytest

from tests.slides.tiled_tiff import KINDS, write_slide
from triplex_deploy.slides import Slide, open_slide
from triplex_deploy.slides.direct_tiff import DirectTiffReader
from triplex_deploy.slides.openslide_reader import OpenSlideReader

REAL: dict[str, type[Slide]] = {
    "CMU-1-Small-Region.svs": DirectTiffReader,
    "openslide_boxes.tiff": DirectTiffReader,
    "openslide_small.svs": DirectTiffReader,
    "test3-DAPI-2-387.ndpi": OpenSlideReader,
}
DICOM = "dicom_cmu1_small/level-0-frames-0-30.dcm"


def reference(slide: openslide.OpenSlide, level: int, window: tuple[int, int, int, int]):
    """OpenSlide's pixels over white; zero outside the level."""
    x, y, width, height = window
    downsample = int(slide.level_downsamples[level])
    level_width, level_height = slide.level_dimensions[level]
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + width, level_width), min(y + height, level_height)
    out = np.zeros((height, width, 3), np.uint8)
    if right <= left or bottom <= top:
        return out
    size = (right - left, bottom - top)
    rgba = np.asarray(slide.read_region((left * downsample, top * downsample), level, size))
    shown = np.where(rgba[..., 3:] == 255, rgba[..., :3], 255)
    assert set(np.unique(rgba[..., 3])) <= {0, 255}
    out[top - y : bottom - y, left - x : right - x] = shown
    return out


def assert_equal_everywhere(slide: Slide, path: Path, regions: int = 40) -> None:
    rng = np.random.default_rng(11)
    with openslide.OpenSlide(path) as original:
        for level, (width, height) in enumerate(slide.level_sizes):
            if not original.level_downsamples[level].is_integer():
                continue
            for _ in range(regions):
                size = rng.integers(1, 400, 2)
                x, y = rng.integers(-size, (width, height))
                window = (int(x), int(y), int(size[0]), int(size[1]))
                np.testing.assert_array_equal(
                    slide.read(level, *window), reference(original, level, window)
                )


@pytest.mark.parametrize("name", REAL)
def test_real_slides(name: str, shared_data: Path) -> None:
    path = shared_data / "slides" / name
    with open_slide(path) as slide:
        assert type(slide) is REAL[name]
        assert_equal_everywhere(slide, path)


def test_real_dicom_as_its_header_says(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its header is wrong about the colors, which ``open_slide`` corrects; see the test below."""
    monkeypatch.setattr(
        "triplex_deploy.slides.openslide_reader.holds_mislabeled_ycbcr", lambda *_: False
    )
    path = shared_data / "slides" / DICOM
    with open_slide(path) as slide:
        assert_equal_everywhere(slide, path)


@pytest.mark.parametrize("path_kind", ["direct", "openslide"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_tile(
    kind: str, path_kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_slide(tmp_path / "slide.tif", kind)
    if path_kind == "openslide":
        monkeypatch.setattr("triplex_deploy.slides.direct_tiff.VENDORS", ())
    with open_slide(path) as slide:
        expected = DirectTiffReader if path_kind == "direct" else OpenSlideReader
        assert type(slide) is expected
        assert_equal_everywhere(slide, path, regions=12)


@pytest.mark.parametrize(
    ("kind", "reader"), [("jpeg 4:2:0", DirectTiffReader), ("svs jpeg", OpenSlideReader)]
)
def test_missing_tiles(kind: str, reader: type, tmp_path: Path) -> None:
    """OpenSlide fills missing tiles of Aperio from other levels, so it reads such files itself."""
    path = write_slide(tmp_path / "sparse.tif", kind, missing=(0, 7, 23))
    with open_slide(path) as slide:
        assert type(slide) is reader
        assert_equal_everywhere(slide, path)


def test_bigtiff(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "big.tif", bigtiff=True)
    with open_slide(path) as slide:
        assert type(slide) is DirectTiffReader
        assert_equal_everywhere(slide, path, regions=12)


def test_segments_equal_windows(shared_data: Path) -> None:
    for name in [*REAL, DICOM]:
        with open_slide(shared_data / "slides" / name) as slide:
            for level, size in enumerate(slide.level_sizes):
                grid = slide.segment_grid(level)
                for column, row in {(0, 0), (grid.columns - 1, grid.rows - 1)}:
                    out = np.empty((grid.height_px, grid.width_px, 3), np.uint8)
                    slide.read_segment(level, column, row, out)
                    x, y = column * grid.width_px, row * grid.height_px
                    inside = out[: size[1] - y, : size[0] - x]
                    expected = slide.read(level, x, y, inside.shape[1], inside.shape[0])
                    np.testing.assert_array_equal(inside, expected)


def test_a_different_decoder_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A decoder that is off by one gray level in one place must not be used."""
    from triplex_deploy.slides import codecs

    exact = codecs.tile_decoder

    def wrong(page):
        decode = exact(page)

        def off_by_one(data, index, out):
            decode(data, index, out)
            out[5, 7, 1] ^= 1

        return off_by_one

    monkeypatch.setattr("triplex_deploy.slides.direct_tiff.tile_decoder", wrong)
    with open_slide(write_slide(tmp_path / "slide.tif")) as slide:
        assert type(slide) is OpenSlideReader
    assert "differs from OpenSlide" in caplog.text
