"""A data set's scale that contradicts its slide is refused or warned of, with both numbers."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from scipy.sparse import csr_array

from triplex_deploy.data import Section
from triplex_deploy.errors import DatasetError
from triplex_deploy.training.section_scale import check_section_scale

HEX_RC = np.array([[row, 2 * col + row % 2] for row in range(4) for col in range(4)], np.int64)


def section(**changes: Any) -> Section:
    """A Visium lattice, 100 um = 200 px."""
    made = Section(
        name="A1",
        patient="A",
        slide_path=Path("a.tif"),
        slide_mpp=0.5,
        counts=csr_array(np.ones((16, 1))),
        genes=("GNAS",),
        grid_rc=HEX_RC,
        level0_xy=HEX_RC[:, ::-1] * np.array([100.0, 173.205]) + 300,
        is_hexagonal=True,
    )
    return replace(made, **changes)


def slide(mpp: float | None) -> Any:
    return cast(Any, SimpleNamespace(mpp=mpp, level_sizes=((1, 1),)))


@pytest.mark.parametrize("mpp", [None, 0.5, 0.52])
def test_scales_that_agree_pass_in_silence(
    mpp: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    check_section_scale(section(), slide(mpp))
    assert caplog.text == ""


def test_positions_on_an_image_of_another_size_are_refused() -> None:
    with pytest.raises(DatasetError, match=r"A1: 0\.5 um/px by the data set, 0\.25 by the slide"):
        check_section_scale(section(), slide(0.25))


def test_a_given_scale_is_taken_with_a_word(caplog: pytest.LogCaptureFixture) -> None:
    check_section_scale(section(is_mpp_given=True), slide(0.25))
    assert "0.5 um/px by the data set, 0.25 by the slide a.tif; check which is right" in caplog.text


def test_a_lattice_of_another_pitch_is_said(caplog: pytest.LogCaptureFixture) -> None:
    check_section_scale(section(slide_mpp=0.4), slide(None))
    assert "80 um apart" in caplog.text
    assert "100 um on a Visium array" in caplog.text
