"""The pyramid of tiles: what a viewer puts together is the slide."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from triplex_deploy.errors import ConfigError, OutputError
from triplex_deploy.slides import open_slide
from triplex_deploy.slides.tile_pyramid import TILE_PX, TilePyramid, write_pyramid

SIZE_WH = (1300, 700)


@pytest.fixture
def pixels() -> NDArray[np.uint8]:
    """Smooth colors, which JPEG keeps, over glass on the right."""
    y, x = np.mgrid[: SIZE_WH[1], : SIZE_WH[0]]
    picture = np.stack([x // 8, y // 4, (x + y) // 12], axis=2).astype(np.uint8)
    picture[:, 1024:] = 240
    return picture


@pytest.fixture
def slide_path(pixels: NDArray[np.uint8], tmp_path: Path) -> Path:
    Image.fromarray(pixels).save(tmp_path / "slide.png")
    return tmp_path / "slide.png"


def put_together(folder: Path, pyramid: TilePyramid, level: int) -> NDArray[np.uint8]:
    """The picture of a level, white where a tile is left out."""
    shrink = 2 ** (max(pyramid.present) - level)
    width, height = -(-pyramid.width // shrink), -(-pyramid.height // shrink)
    picture = np.full((height, width, 3), 240, np.uint8)
    for row, flags in enumerate(pyramid.present[level]):
        for column, flag in enumerate(flags):
            path = folder / "slide_files" / str(level) / f"{column}_{row}.jpg"
            assert path.is_file() == (flag == "1")
            if flag == "1":
                tile = np.asarray(Image.open(path))
                top, left = row * TILE_PX, column * TILE_PX
                picture[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return picture


def test_levels_put_together_are_the_slide(
    slide_path: Path, pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    with open_slide(slide_path) as slide:
        pyramid = write_pyramid(slide, 0.5, tmp_path / "tiles")
    assert (pyramid.width, pyramid.height, pyramid.level0_per_px) == (*SIZE_WH, 1.0)
    finest = put_together(tmp_path / "tiles", pyramid, 11)
    assert np.abs(finest.astype(int) - pixels).mean() < 2
    halved = put_together(tmp_path / "tiles", pyramid, 10)
    wanted = np.asarray(Image.fromarray(pixels).reduce(2))
    assert np.abs(halved.astype(int) - wanted).mean() < 2
    assert put_together(tmp_path / "tiles", pyramid, 0).shape == (1, 1, 3)


def test_glass_is_left_out(slide_path: Path, tmp_path: Path) -> None:
    with open_slide(slide_path) as slide:
        pyramid = write_pyramid(slide, 0.5, tmp_path / "tiles")
    assert pyramid.present[11] == ("110", "110")
    assert pyramid.present[10] == ("10",)
    assert pyramid.present[9] == ("1",)  # half of it is tissue


def test_finest_level_has_the_scale_that_was_asked_for(
    slide_path: Path, pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    calls: list[tuple[int, int]] = []
    with open_slide(slide_path) as slide:
        pyramid = write_pyramid(
            slide, 0.25, tmp_path / "tiles", 0.6, lambda *counts: calls.append(counts)
        )
    assert pyramid.level0_per_px == pytest.approx(2.4)
    assert (pyramid.width, pyramid.height) == (542, 292)
    assert calls == [(1, 2), (2, 2)]
    finest = put_together(tmp_path / "tiles", pyramid, max(pyramid.present))
    row, column = np.mgrid[:291, :420]
    wanted = pixels[(row * 2.4 + 1.2).astype(int), (column * 2.4 + 1.2).astype(int)]
    assert np.abs(finest[:291, :420].astype(int) - wanted).mean() < 2.5


def test_a_pyramid_is_replaced_and_other_folders_are_kept(slide_path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiles"
    with open_slide(slide_path) as slide:
        write_pyramid(slide, 0.5, folder, 4.0)
        write_pyramid(slide, 0.5, folder, 2.0)
        assert json.loads((folder / "pyramid.json").read_text())["width"] == 325
        (folder / "mine.txt").write_text("keep")
        with pytest.raises(OutputError, match="tiles: holds other files"):
            write_pyramid(slide, 0.5, folder)
        (tmp_path / "other").mkdir()
        with pytest.raises(OutputError, match="other: holds other files"):
            write_pyramid(slide, 0.5, tmp_path / "other")
    assert (folder / "mine.txt").read_text() == "keep"
    assert not list(tmp_path.glob(".triplex-*"))


@pytest.mark.parametrize("finest_um", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_is_none_is_refused(
    slide_path: Path, tmp_path: Path, finest_um: float
) -> None:
    with open_slide(slide_path) as slide, pytest.raises(ConfigError, match="finest_um"):
        write_pyramid(slide, 0.5, tmp_path / "tiles", finest_um)
