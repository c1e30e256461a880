"""Given spots are compared with the scale of the slide before anything is encoded."""

import logging
from pathlib import Path

import numpy as np
import pytest

from triplex_deploy.errors import SpotsError
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.pipeline.placing import place_spots
from triplex_deploy.slides import open_slide
from triplex_deploy.tiles.view import SlideView

MPP = 0.5


def st_file(path: Path, pitch_px: float, swapped: bool = False) -> Path:
    lines = ["x\ty\tnew_x\tnew_y\tpixel_x\tpixel_y\tselected"]
    for row, column in np.ndindex(3, 3):
        xy = (50 + pitch_px * column, 50 + pitch_px * row)
        xy = xy[::-1] if swapped else xy
        lines.append(f"{column}\t{row}\t{column}\t{row}\t{xy[0]}\t{xy[1]}\t1")
    path.write_text("\n".join(lines) + "\n")
    return path


def place(slide_path: Path, spots: Path) -> int:
    with open_slide(slide_path) as slide:
        view = SlideView.open(slide, MPP, MPP)
        placed, _ = place_spots(slide, MPP, view, PredictOptions(spots=spots))
    return len(placed.level0_xy)


def test_positions_of_a_smaller_copy_are_refused(slide_path: Path, tmp_path: Path) -> None:
    with pytest.raises(SpotsError, match=r"\.tif: .* 100 um apart .* 200 um on a ST array"):
        place(slide_path, st_file(tmp_path / "s.tsv", pitch_px=200.0))


def test_swapped_positions_are_a_warning(
    slide_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert place(slide_path, st_file(tmp_path / "s.tsv", 400.0, swapped=True)) == 9
    assert "check that x and y of the positions are not swapped" in caplog.text


def test_positions_that_fit_pass_in_silence(
    slide_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert place(slide_path, st_file(tmp_path / "s.tsv", 400.0)) == 9
    assert caplog.text == ""
