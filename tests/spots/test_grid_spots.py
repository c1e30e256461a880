"""Tiles in a grid over the tissue."""

from collections.abc import Callable

import numpy as np
import pytest

from triplex_deploy.errors import SpotsError
from triplex_deploy.slides import Slide
from triplex_deploy.spots import Spots, TissueMask, check_spots, grid_spots
from triplex_deploy.tiles import SlideView

Maker = Callable[..., Slide]


def blank(array_slide: Maker, width: int, height: int, mpp: float = 0.5) -> Slide:
    return array_slide(np.zeros((height, width, 3), np.uint8), mpp)


def all_tissue(slide: Slide) -> TissueMask:
    width, height = slide.level_sizes[0]
    return TissueMask(np.ones((10, 10), np.bool_), (width / 10, height / 10))


def lay(
    slide: Slide, slide_mpp: float, mpp: float, pitch_um: float | None, tissue: TissueMask
) -> Spots:
    view = SlideView.open(slide, slide_mpp, mpp)
    return grid_spots(slide, view.size_wh, view.scale_xy, mpp, pitch_um, tissue)


def test_contiguous_tiles_at_the_models_scale(array_slide: Maker) -> None:
    slide = blank(array_slide, 700, 448)
    spots = lay(slide, 0.5, 0.5, None, all_tissue(slide))
    assert spots.level0_xy.tolist() == [
        [112, 112], [336, 112], [560, 112], [112, 336], [336, 336], [560, 336]
    ]  # fmt: skip
    assert spots.grid_rc.tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    assert (spots.layout, spots.spot_diameter_px) == ("grid", 224.0)
    check_spots(spots, slide.level_sizes[0])


def test_one_percent_counts_as_the_same_scale(array_slide: Maker) -> None:
    slide = blank(array_slide, 500, 300)
    spots = lay(slide, 0.5, 0.504, None, all_tissue(slide))
    assert spots.level0_xy.tolist() == [[112, 112], [336, 112]]


@pytest.mark.parametrize("mpp", [0.25, 0.2277, 0.499, 0.9, 0.37])
def test_centers_fall_on_the_view_lattice(mpp: float, array_slide: Maker) -> None:
    slide = blank(array_slide, 6000, 3000)
    spots = lay(slide, mpp, 0.61, None, all_tissue(slide))
    scale = 0.61 / mpp
    centers = np.floor(spots.level0_xy / scale + 1e-6).astype(int)
    assert np.array_equal(centers, 112 + 224 * spots.grid_rc[:, ::-1])
    assert (centers + 112 <= np.floor(np.array([6000, 3000]) / scale)).all()


def test_pitch(array_slide: Maker) -> None:
    slide = blank(array_slide, 1000, 300)
    dense = lay(slide, 0.5, 0.5, 56.0, all_tissue(slide))
    assert sorted(set(dense.level0_xy[:, 0])) == [112, 224, 336, 448, 560, 672, 784]
    wide = lay(slide, 0.5, 0.5, 200.25, all_tissue(slide))
    assert sorted(set(wide.level0_xy[:, 0])) == [112, 512]  # 112 + 400.5, to even


def test_pitch_below_a_pixel_is_refused(array_slide: Maker) -> None:
    slide = blank(array_slide, 1000, 300)
    for pitch_um in (0.0, -5.0, 0.1, float("nan")):
        with pytest.raises(SpotsError, match="pitch"):
            lay(slide, 0.5, 0.5, pitch_um, all_tissue(slide))


def test_tiles_less_than_half_on_tissue_are_dropped(array_slide: Maker) -> None:
    slide = blank(array_slide, 672, 224)
    mask = np.zeros((4, 12), np.bool_)
    mask[:, :6] = True  # tissue over the first tile and half of the second
    tissue = TissueMask(mask, (56.0, 56.0))
    assert lay(slide, 0.5, 0.5, None, tissue).names == ("0x0", "1x0")
    mask[0, 5] = False
    assert lay(slide, 0.5, 0.5, None, tissue).names == ("0x0",)


def test_slide_without_a_tile_is_refused(array_slide: Maker) -> None:
    slide = blank(array_slide, 223, 500)
    with pytest.raises(SpotsError, match="223x500 pixels at the model's scale, less than one tile"):
        lay(slide, 0.5, 0.5, None, all_tissue(slide))
    slide = blank(array_slide, 448, 448)
    empty = TissueMask(np.zeros((4, 4), np.bool_), (112.0, 112.0))
    with pytest.raises(SpotsError, match="no tile has 50% of tissue"):
        lay(slide, 0.5, 0.5, None, empty)


def test_frame_of_the_view_is_taken_over(array_slide: Maker) -> None:
    slide = blank(array_slide, 1801, 1001, 0.25)
    spots = grid_spots(slide, (900, 500), (2.0, 2.002), 0.5, None, all_tissue(slide))
    assert np.allclose(spots.level0_xy / (2.0, 2.002), 112 + 224 * spots.grid_rc[:, ::-1])
    assert spots.grid_rc.max(axis=0).tolist() == [1, 3]
