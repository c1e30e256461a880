"""Small pictures of whole slides."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from triplex_deploy.slides import Slide, open_slide, thumbnail
from triplex_deploy.slides import thumbnail as _function
from triplex_deploy.slides.thumbnail import overlaps


class ArraySlide(Slide):
    """Levels held in memory, which counts the pixels read."""

    def __init__(self, *levels: np.ndarray) -> None:
        self.path, self.format, self.mpp = Path("array"), "array", None
        self.background_rgb = (255, 255, 255)
        self.levels = levels
        self.level_sizes = tuple(level.shape[1::-1] for level in levels)
        self.level_downsamples = tuple(self.level_sizes[0][0] / w for w, _ in self.level_sizes)
        self.largest_read_px = 0
        self.levels_read: set[int] = set()

    def _read_inside(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        self.largest_read_px = max(self.largest_read_px, width * height)
        self.levels_read.add(level)
        return self.levels[level][y : y + height, x : x + width].copy()

    def _release(self) -> None:
        pass


def test_parts_of_pixels_count_in_part() -> None:
    values = np.array([0, 30, 60], np.uint8)
    edges = np.array([0.0, 1.5, 3.0])
    assert (overlaps(edges, 3) @ values).tolist() == [15.0, 75.0]
    assert overlaps(edges, 3).toarray().tolist() == [[1.0, 0.5, 0.0], [0.0, 0.5, 1.0]]


def test_mean_color_is_kept() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (301, 457, 3), np.uint8)
    small = thumbnail(ArraySlide(pixels), 100)
    assert small.shape == (66, 100, 3)
    assert np.abs(small.mean((0, 1)) - pixels.mean((0, 1))).max() < 0.6


def test_exact_blocks_are_averaged() -> None:
    pixels = np.kron(np.arange(12, dtype=np.uint8).reshape(3, 4), np.ones((5, 5), np.uint8))
    small = thumbnail(ArraySlide(np.repeat(pixels[..., None], 3, 2)), 4)
    assert small[..., 0].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_small_slide_is_not_enlarged() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (20, 30, 3), np.uint8)
    assert np.array_equal(thumbnail(ArraySlide(pixels), 500), pixels)


def test_coarsest_adequate_level_is_read() -> None:
    levels = [np.full((800 // s, 400 // s, 3), s, np.uint8) for s in (1, 4, 16)]
    slide = ArraySlide(*levels)
    assert (thumbnail(slide, 100) == 4).all()
    assert slide.levels_read == {1}


def test_large_single_level_is_read_in_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setattr(sys.modules[_function.__module__], "BAND_PX", 1 << 16)
    pixels = np.random.default_rng(1).integers(0, 256, (3000, 500, 3), np.uint8)
    slide = ArraySlide(pixels)
    small = thumbnail(slide, 300)
    assert slide.largest_read_px <= (1 << 16) + 2 * 500
    assert np.array_equal(small, thumbnail(ArraySlide(pixels), 300))
    blocks = pixels.reshape(300, 10, 50, 10, 3).mean((1, 3))
    assert np.abs(small - blocks).max() <= 0.5


def test_thin_slide_keeps_one_pixel() -> None:
    assert thumbnail(ArraySlide(np.zeros((2, 900, 3), np.uint8)), 30).shape == (1, 30, 3)


def test_real_slide_agrees_with_pillow(shared_data: Path) -> None:
    with open_slide(shared_data / "slides/CMU-1-Small-Region.svs") as slide:
        small = thumbnail(slide, 989)  # a third
        whole = Image.fromarray(slide.read(0, 0, 0, 2220, 2967))
    assert small.shape == (989, 740, 3)
    expected = np.asarray(whole.resize((740, 989), Image.Resampling.BOX)).astype(int)
    assert np.abs(small - expected).max() <= 1
