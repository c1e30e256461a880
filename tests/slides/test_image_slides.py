"""Plain JPEG and PNG images as slides."""

import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from triplex_deploy.errors import SlideError
from triplex_deploy.slides import image_reader, open_slide


def pixel(path: Path) -> list[int]:
    with open_slide(path) as slide:
        return slide.read(0, 0, 0, 1, 1)[0, 0].tolist()


def test_gray_becomes_rgb_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.new("L", (8, 8), 90).save(tmp_path / "gray.png")
    assert pixel(tmp_path / "gray.png") == [90, 90, 90]
    assert "gray" in caplog.text


def test_alpha_shows_white(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (200, 0, 100, 0)).save(tmp_path / "clear.png")
    assert pixel(tmp_path / "clear.png") == [255, 255, 255]
    Image.new("RGBA", (8, 8), (200, 0, 100, 255)).save(tmp_path / "opaque.png")
    assert pixel(tmp_path / "opaque.png") == [200, 0, 100]


def test_palette_with_transparent_color(tmp_path: Path) -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(tmp_path / "palette.png")
    assert pixel(tmp_path / "palette.png") == [10, 20, 30]
    image.save(tmp_path / "holes.png", transparency=1)
    assert pixel(tmp_path / "holes.png") == [255, 255, 255]


def test_cmyk_is_refused(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8)).save(tmp_path / "print.jpg")
    with pytest.raises(SlideError, match="CMYK; export it as 8-bit RGB"):
        open_slide(tmp_path / "print.jpg")


def test_16_bit_is_refused(tmp_path: Path) -> None:
    import imagecodecs

    Image.fromarray(np.full((8, 8), 4000, np.uint16)).save(tmp_path / "gray16.png")
    (tmp_path / "rgb16.png").write_bytes(imagecodecs.png_encode(np.zeros((8, 8, 3), np.uint16)))
    for name in ("gray16.png", "rgb16.png"):
        with pytest.raises(SlideError, match="more than 8 bits"):
            open_slide(tmp_path / name)


def test_exif_orientation_is_reported_and_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "turned.jpg", exif=exif)
    with open_slide(tmp_path / "turned.jpg") as slide:
        assert slide.level_sizes == ((8, 4),)
    assert "orientation 6 is ignored" in caplog.text


def test_memory_limit_names_the_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_reader, "MAX_PIXELS", 50)
    Image.new("RGB", (8, 8)).save(tmp_path / "big.png")
    with pytest.raises(SlideError, match=r"8x8 pixels .* tiled TIFF"):
        open_slide(tmp_path / "big.png")


def test_pillows_bomb_limit_does_not_apply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (100, 100)).save(tmp_path / "image.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pixel(tmp_path / "image.png") == [0, 0, 0]


def test_transparency_composite_keeps_strips_aligned(tmp_path: Path) -> None:
    rows = np.arange(2100, dtype=np.uint16).reshape(-1, 1, 1)
    rgba = np.concatenate([rows % 256, rows // 256, rows * 0, rows * 0 + 255], axis=2)
    Image.fromarray(rgba.astype(np.uint8), "RGBA").save(tmp_path / "tall.png")
    with open_slide(tmp_path / "tall.png") as slide:
        assert slide.read(0, 0, 2050, 1, 1).tolist() == [[[2050 % 256, 8, 0]]]


def test_full_her2st_section(shared_data: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_slide(shared_data / "her2st/ST-imgs/C/C5/5714_HE_BT_E1.jpg") as slide:
        assert slide.format == "jpeg"
        assert slide.level_sizes == ((9272, 9901),)
        assert slide.mpp is None
        assert slide.background_rgb == (255, 255, 255)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
