"""TIFFs that OpenSlide does not read."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from triplex_deploy.errors import SlideError
from triplex_deploy.slides import open_slide, tiff_pages


def ramp(height: int = 60, width: int = 80) -> np.ndarray:
    return (np.arange(height * width * 3) % 251).reshape(height, width, 3).astype(np.uint8)


def write(path: Path, data: np.ndarray, **options: Any) -> Path:
    tifffile.imwrite(path, data, **options)
    return path


def test_subifds_are_levels(tmp_path: Path) -> None:
    path = tmp_path / "pyramid.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(ramp(), subifds=2, photometric="rgb", metadata={"axes": "YXS"})
        writer.write(ramp()[::2, ::2], subfiletype=1, photometric="rgb")
        writer.write(ramp()[::4, ::4], subfiletype=1, photometric="rgb")
    with open_slide(path) as slide:
        assert slide.format == "ome-tiff"
        assert slide.level_sizes == ((80, 60), (40, 30), (20, 15))
        assert slide.level_downsamples == (1.0, 2.0, 4.0)
        assert np.array_equal(slide.read(2, 0, 0, 20, 15), ramp()[::4, ::4])


def test_largest_image_is_the_slide(tmp_path: Path) -> None:
    path = tmp_path / "with_label.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(ramp(20, 20) // 2, photometric="rgb")
        writer.write(ramp(), photometric="rgb")
    with open_slide(path) as slide:
        assert slide.level_sizes == ((80, 60),)
        assert np.array_equal(slide.read(0, 0, 0, 80, 60), ramp())


def test_gray_becomes_rgb(tmp_path: Path) -> None:
    path = write(tmp_path / "gray.tif", ramp()[..., 0], photometric="minisblack")
    with open_slide(path) as slide:
        assert np.array_equal(slide.read(0, 0, 0, 80, 60), np.repeat(ramp()[..., :1], 3, 2))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("unassalpha", 193),  # 0.4 * 100 + 0.6 * 255
        ("assocalpha", 253),  # 100 + 0.6 * 255
    ],
)
def test_alpha_shows_white(kind: str, expected: int, tmp_path: Path) -> None:
    rgba = np.full((16, 16, 4), 100, np.uint8)
    rgba[..., 3] = 102  # 40 % opaque
    path = write(tmp_path / "alpha.tif", rgba, photometric="rgb", extrasamples=[kind])
    with open_slide(path) as slide:
        assert slide.read(0, 0, 0, 1, 1)[0, 0, 0] == expected


def test_missing_tiles_are_white(tmp_path: Path) -> None:
    path = tmp_path / "sparse.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        tiles = iter([ramp(32, 32), None, None, ramp(32, 32)])
        writer.write(
            tiles, shape=(64, 64, 3), dtype=np.uint8, tile=(32, 32), photometric="rgb",
            metadata={"axes": "YXS"},
        )  # fmt: skip
    with open_slide(path) as slide:
        pixels = slide.read(0, 0, 0, 64, 64)
    assert (pixels[:32, 32:] == 255).all()
    assert np.array_equal(pixels[32:, 32:], ramp(32, 32))


def test_jpeg_strips_are_rgb(tmp_path: Path) -> None:
    pink = np.full((64, 64, 3), (230, 120, 180), np.uint8)
    path = write(tmp_path / "ycc.tif", pink, photometric="rgb", compression="jpeg")
    with open_slide(path) as slide:
        found = slide.read(0, 10, 10, 1, 1)[0, 0].astype(int)
    assert np.abs(found - [230, 120, 180]).max() <= 3


@pytest.mark.parametrize(
    ("shape", "dtype", "options", "reason"),
    [
        ((4, 60, 80), np.uint8, {"metadata": {"axes": "CYX"}, "ome": True}, "4 separate channels"),
        ((3, 60, 80), np.uint8, {"metadata": {"axes": "CYX"}, "ome": True}, "3 separate channels"),
        ((5, 60, 80), np.uint8, {"metadata": {"axes": "ZYX"}, "ome": True}, "stack of 5 images"),
        ((60, 80, 3), np.uint16, {"photometric": "rgb"}, "uint16, not uint8"),
        ((60, 80), np.float32, {}, "float32, not uint8"),
        ((60, 80, 4), np.uint8, {"photometric": "separated"}, "SEPARATED with 4 samples"),
        ((60, 80), np.uint8, {"photometric": "miniswhite"}, "MINISWHITE with 1 samples"),
    ],
)
def test_what_is_no_rgb_picture_is_refused(
    shape: tuple[int, ...], dtype: Any, options: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    options = {"photometric": "minisblack", **options}
    path = write(tmp_path / "other.tif", np.zeros(shape, dtype), **options)
    with pytest.raises(SlideError, match=reason):
        open_slide(path)


def test_huge_strip_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff_pages, "MAX_SEGMENT_BYTES", 1000)
    path = write(tmp_path / "one_strip.tif", ramp(), photometric="rgb", rowsperstrip=60)
    with pytest.raises(SlideError, match="tiled TIFF"):
        open_slide(path)


def test_untiled_real_slide(shared_data: Path) -> None:
    path = shared_data / "slides/kidney-48-5.tif"
    with open_slide(path) as slide:
        assert slide.format == "tiff"
        assert slide.level_sizes == ((1493, 901),)
        assert slide.mpp is None
        assert np.array_equal(
            slide.read(0, 300, 500, 90, 60), tifffile.imread(path)[500:560, 300:390]
        )


def test_ome_real_slide(shared_data: Path) -> None:
    path = shared_data / "slides/OS-1-detail.ome.tif"
    with open_slide(path) as slide:
        assert slide.level_sizes == ((1101, 1101),)
        assert slide.mpp == pytest.approx(0.2271, abs=1e-4)
        assert np.array_equal(slide.read(0, 0, 0, 1101, 1101), tifffile.imread(path))
