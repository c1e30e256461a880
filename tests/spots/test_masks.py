"""Masks given by the user, and the picture that shows a mask."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from triplex_deploy.errors import SpotsError
from triplex_deploy.slides import Slide
from triplex_deploy.spots import (
    TissueMask,
    grid_spots,
    mask_overlay,
    read_mask,
    visium_spots,
    whole_slide_mask,
)


class BlankSlide(Slide):
    """White, 4,000 x 2,000 pixels."""

    def __init__(self) -> None:
        self.path = Path("blank.tif")
        self.level_sizes = ((4000, 2000),)

    def _read_inside(self, level, x, y, width, height):
        return np.full((height, width, 3), 255, np.uint8)

    def _release(self) -> None:
        pass


@pytest.fixture
def slide() -> Slide:
    return BlankSlide()


def save(path: Path, picture: np.ndarray) -> Path:
    Image.fromarray(picture).save(path)
    return path


LEFT_HALF = np.repeat(np.array([[255, 0]], np.uint8), 100, axis=0).repeat(100, axis=1)


def test_what_is_not_black_is_tissue(slide: Slide, tmp_path: Path) -> None:
    tissue = read_mask(save(tmp_path / "mask.png", LEFT_HALF), slide)
    assert tissue.level0_per_px == (20.0, 20.0)
    boxes = np.array([[0, 0, 2000, 2000], [2000, 0, 4000, 2000], [1000, 0, 3000, 2000.0]])
    assert tissue.fraction(boxes).tolist() == [1.0, 0.0, 0.5]


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "P"])
def test_pictures_of_every_mode(slide: Slide, tmp_path: Path, mode: str) -> None:
    path = tmp_path / "mask.png"
    Image.fromarray(LEFT_HALF).convert(mode).save(path)
    assert np.array_equal(read_mask(path, slide).mask, LEFT_HALF > 0)


def test_a_drawing_on_transparent_ground(slide: Slide, tmp_path: Path) -> None:
    drawing = np.zeros((100, 200, 4), np.uint8)
    drawing[..., 3] = LEFT_HALF
    assert np.array_equal(read_mask(save(tmp_path / "m.png", drawing), slide).mask, LEFT_HALF > 0)


def test_a_mask_of_another_shape_is_refused(slide: Slide, tmp_path: Path) -> None:
    path = save(tmp_path / "mask.png", LEFT_HALF[:, :100])
    with pytest.raises(SpotsError, match="100x100, the slide 4000x2000"):
        read_mask(path, slide)


def test_a_large_mask_brings_no_warning_of_python(
    slide: Slide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "mask.png", LEFT_HALF)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", LEFT_HALF.size - 1)
    assert np.array_equal(read_mask(path, slide).mask, LEFT_HALF > 0)


def test_a_black_mask_is_refused(slide: Slide, tmp_path: Path) -> None:
    path = save(tmp_path / "mask.png", LEFT_HALF * 0)
    with pytest.raises(SpotsError, match="all black"):
        read_mask(path, slide)


@pytest.mark.parametrize("content", [None, b"", b"no picture"])
def test_what_is_no_picture_is_refused(slide: Slide, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "mask.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SpotsError, match=r"mask\.png: (no such mask file|not a picture)"):
        read_mask(path, slide)


def test_under_the_whole_slide_mask_every_tile_counts(slide: Slide) -> None:
    tissue = whole_slide_mask(slide)
    assert len(grid_spots(slide, (4000, 2000), (1.0, 1.0), 0.5, None, tissue).grid_rc) == 17 * 8
    assert len(visium_spots(slide, 0.5, tissue).grid_rc) > 0


def test_the_overlay_outlines_tissue_and_fades_the_rest() -> None:
    mask = np.zeros((10, 10), np.bool_)
    mask[2:8, 2:8] = True
    picture = np.full((100, 100, 3), 100, np.uint8)
    shown = mask_overlay(picture, TissueMask(mask, (1.0, 1.0)))
    assert shown[50, 50].tolist() == [100, 100, 100]
    assert shown[5, 5].tolist() == [193, 193, 193]
    assert shown[20, 50].tolist() == shown[50, 79].tolist() == [20, 160, 60]
    assert (picture == 100).all()


def test_the_overlay_of_a_whole_slide_has_no_outline(slide: Slide) -> None:
    picture = np.full((50, 100, 3), 7, np.uint8)
    assert np.array_equal(mask_overlay(picture, whole_slide_mask(slide)), picture)
