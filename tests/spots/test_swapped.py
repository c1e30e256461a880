"""Positions with x and y exchanged are refused or cause a warning, with both numbers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from triplex_deploy.data import Section
from triplex_deploy.errors import SpotsError
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.pipeline.placing import place_spots
from triplex_deploy.slides import Slide
from triplex_deploy.spots import TissueMask, check_swapped, read_spots, swapped
from triplex_deploy.spots.scale import ST_PITCH_UM, square
from triplex_deploy.tiles.view import SlideView
from triplex_deploy.training.section_scale import check_section_scale

MPP = 2.0
SIDE = 1200
ArraySlide = Callable[[np.ndarray, float], Slide]


def band_xy(step_px: float = 100.0) -> np.ndarray:
    """Return centers (N, 2) in a wide band at the top of the slide: x to 1150, y to 350."""
    return np.array([(x, y) for y in np.arange(50, 400, step_px) for x in np.arange(50, 1200, 100)])


@pytest.fixture
def slide(array_slide: ArraySlide, monkeypatch: pytest.MonkeyPatch) -> Slide:
    """A square slide, with tissue in its upper third."""

    def upper_third(_slide: Slide, _mpp: float, _skip_bad: bool = False, **_: object) -> TissueMask:
        mask = np.zeros((120, 120), np.bool_)
        mask[:40] = True
        return TissueMask(mask, (SIDE / 120, SIDE / 120))

    monkeypatch.setattr(swapped, "tissue_mask", upper_third)
    return array_slide(np.full((SIDE, SIDE, 3), 230, np.uint8), MPP)


def write(path: Path, xy: np.ndarray, header: str = "pixel_x,pixel_y") -> Path:
    path.write_text(header + "\n" + "".join(f"{x:g},{y:g}\n" for x, y in xy))
    return path


def test_spots_in_place_pass(slide: Slide) -> None:
    assert check_swapped(slide, MPP, band_xy()) == ""


def test_spots_off_the_tissue_that_lie_on_it_once_exchanged_are_said(slide: Slide) -> None:
    warning = check_swapped(slide, MPP, band_xy()[:, ::-1])
    assert warning.startswith("16 of 48 spots lie on tissue, and 48 of 48 with x and y exchanged")


def test_spots_that_lie_off_the_tissue_either_way_pass(slide: Slide) -> None:
    assert check_swapped(slide, MPP, np.add(band_xy(), (0, 700))) == ""


def test_predict_says_that_the_columns_of_a_list_are_exchanged(
    slide: Slide, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    view = SlideView.open(slide, MPP, MPP)
    for xy, warned in ((band_xy(), False), (band_xy()[:, ::-1], True)):
        caplog.clear()
        path = write(tmp_path / "s.csv", xy)
        with caplog.at_level(logging.WARNING):
            place_spots(slide, MPP, view, PredictOptions(spots=path))
        assert ("48 of 48 with x and y exchanged" in caplog.text) == warned


def test_prepare_says_that_the_columns_of_a_section_are_exchanged(
    slide: Slide, caplog: pytest.LogCaptureFixture
) -> None:
    for xy, warned in ((band_xy(), False), (band_xy()[:, ::-1], True)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            check_section_scale(section(xy, (band_xy() // 100)[:, ::-1]), slide)
        assert ("48 of 48 with x and y exchanged" in caplog.text) == warned


def section(xy: np.ndarray, grid_rc: np.ndarray, **facts: object) -> Section:
    return Section(
        name="A1",
        patient="A",
        slide_path=Path("a.tif"),
        slide_mpp=MPP,
        counts=csr_array(np.ones((len(xy), 1))),
        genes=("GNAS",),
        grid_rc=grid_rc.astype(np.int64),
        level0_xy=xy,
        **facts,  # type: ignore[arg-type]
    )


def test_prepare_says_that_an_st_array_is_mirrored(
    slide: Slide, caplog: pytest.LogCaptureFixture
) -> None:
    xy = np.array([(x, y) for y in range(50, 1200, 100) for x in range(50, 1200, 100)], float)
    places = (xy // 100)[:, ::-1]
    array = square("ST array", ST_PITCH_UM)
    for exchanged, warned in ((xy, False), (xy[:, ::-1], True)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            check_section_scale(section(exchanged, places, array=array), slide)
        assert ("the ST array is mirrored on this image" in caplog.text) == warned


def test_a_slide_without_tissue_has_nothing_to_compare_with(array_slide: ArraySlide) -> None:
    blank = array_slide(np.full((SIDE, SIDE, 3), 240, np.uint8), MPP)
    assert check_swapped(blank, MPP, band_xy()) == ""


def test_positions_that_lie_inside_only_once_exchanged_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "s.csv", band_xy()[:, ::-1])
    reason = r"32 of 48 lie outside the slide of 1200x400 .*exchanged, all 48 lie inside: exchange"
    with pytest.raises(SpotsError, match=reason):
        read_spots(path, (1200, 400))
    with pytest.raises(SpotsError, match="not of a smaller copy, and x before y"):
        read_spots(path, (300, 300))
