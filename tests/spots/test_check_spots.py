"""Spots that cannot be used on a slide are refused."""

from dataclasses import replace

import numpy as np
import pytest

from triplex_deploy.errors import SpotsError
from triplex_deploy.spots import Spots, check_spots

SIZE_WH = (1000, 500)


def spots(xy: list[list[float]], rc: list[list[int]] | None = None) -> Spots:
    grid_rc = rc if rc is not None else [[0, i] for i in range(len(xy))]
    return Spots(
        np.array(xy, np.float64).reshape(-1, 2),
        np.array(grid_rc, np.int64).reshape(-1, 2),
        "file",
        10.0,
    )


def test_spots_on_the_slide_pass() -> None:
    check_spots(spots([[0, 0], [999.9, 499.9]]), SIZE_WH)


def test_none_is_refused() -> None:
    with pytest.raises(SpotsError, match="there are none"):
        check_spots(spots([]), SIZE_WH)


@pytest.mark.parametrize("xy", [[1000.0, 10.0], [10.0, 500.0], [-0.1, 10.0], [float("nan"), 1.0]])
def test_outside_is_counted_with_an_example(xy: list[float]) -> None:
    with pytest.raises(SpotsError, match=r"1 of 2 lie outside .* 1000x500 .* spot 2 \(1x0\) at \("):
        check_spots(spots([[5, 5], xy]), SIZE_WH)


def test_outside_hints_at_the_scale() -> None:
    with pytest.raises(SpotsError, match="not of a smaller copy, and x before y"):
        check_spots(spots([[5, 9000]]), SIZE_WH)


def test_repeated_array_position_is_named() -> None:
    with pytest.raises(
        SpotsError, match=r"1 repeat the array position .* spot 1 \(7x4\) and spot 3 \(7x4\)"
    ):
        check_spots(spots([[1, 1], [2, 2], [3, 3]], [[4, 7], [4, 8], [4, 7]]), SIZE_WH)


def test_repeated_pixel_position_is_named() -> None:
    with pytest.raises(
        SpotsError, match=r"1 repeat the pixel position .* spot 2 \(1x0\) and spot 3 \(2x0"
    ):
        check_spots(spots([[1, 1], [2, 2], [2, 2]]), SIZE_WH)


def test_barcodes_are_one_per_spot_or_none() -> None:
    check_spots(replace(spots([[1, 1], [2, 2]]), barcodes=("A", "B")), SIZE_WH)
    with pytest.raises(SpotsError, match="1 barcodes for 2 spots"):
        check_spots(replace(spots([[1, 1], [2, 2]]), barcodes=("A",)), SIZE_WH)
