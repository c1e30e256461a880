import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triplex_deploy.errors import SlideError, TilingError
from triplex_deploy.tiles import SlideView


def area_average(image, step_xy, size_wh):
    """Mean over [v * step, (v + 1) * step) of every view pixel, by cumulative sums."""
    for step, count in zip(step_xy[::-1], size_wh[::-1], strict=True):
        total = np.concatenate([np.zeros_like(image[:1], float), np.cumsum(image, 0, float)])
        edges = np.minimum(np.arange(count + 1) * step, len(image))
        whole = np.minimum(edges.astype(int), len(image) - 1)
        part = (edges - whole)[:, None, None]
        sums = total[whole] * (1 - part) + total[whole + 1] * part
        image = np.swapaxes(np.diff(sums, axis=0) / np.diff(edges)[:, None, None], 0, 1)
    return image


@pytest.mark.parametrize(
    ("slide_mpp", "mpp", "level", "resampling", "scale", "size_wh"),
    [
        (0.5, 0.5, 0, "none", 1.0, (805, 402)),
        (0.505, 0.5, 0, "none", 1.0, (805, 402)),
        (0.4955, 0.5, 0, "none", 1.0, (805, 402)),
        (0.25, 0.5, 1, "none", 2.0, (402, 201)),
        (0.1249, 0.5, 2, "none", 4.0, (201, 100)),
        (0.4, 0.5, 0, "area", 1.25, (644, 321)),
        (0.2, 0.5, 1, "area", 2.5, (322, 160)),
        (0.05, 0.5, 2, "area", 10.0, (80, 40)),
        (0.6, 0.5, 0, "bilinear", 0.5 / 0.6, (966, 482)),
        (1.0, 0.5, 0, "bilinear", 0.5, (1610, 804)),
    ],
)
def test_the_coarsest_level_that_is_fine_enough_is_used(
    memory_slide, slide_mpp, mpp, level, resampling, scale, size_wh
):
    view = SlideView.open(memory_slide((805, 402), (402, 201), (201, 100)), slide_mpp, mpp)
    assert (view.level, view.resampling, view.size_wh) == (level, resampling, size_wh)
    assert view.scale == pytest.approx(scale, abs=1e-12)


def test_a_level_within_one_percent_is_read_bit_exact(memory_slide):
    slide = memory_slide((800, 400), (400, 200))
    view = SlideView.open(slide, 0.2512, 0.5)
    np.testing.assert_array_equal(view.read(0, 0, 400, 200), slide.levels[1])
    np.testing.assert_array_equal(view.read(7, 9, 30, 20), slide.levels[1][9:29, 7:37])


def test_pixels_outside_the_view_are_zero(memory_slide):
    slide = memory_slide((10, 8))
    window = SlideView.open(slide, 0.5, 0.5).read(-2, 5, 5, 6)
    np.testing.assert_array_equal(window[:3, 2:], slide.levels[0][5:8, 0:3])
    window[:3, 2:] = 0
    assert window.shape == (6, 5, 3)
    assert not window.any()


def test_a_window_far_outside_reads_nothing(memory_slide):
    slide = memory_slide((10, 8))
    assert not SlideView.open(slide, 0.5, 0.5).read(10**9, -(10**9), 4, 3).any()
    assert slide.windows == []


def test_level_pixels_beyond_the_whole_view_pixels_are_zero(memory_slide):
    view = SlideView.open(memory_slide((5, 5), (3, 3)), 0.25, 0.5)  # the level is rounded up
    assert view.size_wh == (2, 2)
    assert not view.read(2, 0, 1, 3).any()


def test_whole_ratios_survive_levels_that_were_rounded(memory_slide):
    view = SlideView.open(memory_slide((46001, 3), (11500, 1)), 0.125, 0.5)
    assert view.scale_xy == (4.0, 4.0)
    assert view.centers(np.array([[45999.9, 3.9]])).tolist() == [[11499, 0]]


def test_ratios_that_are_not_whole_may_differ_by_axis(memory_slide):
    view = SlideView.open(memory_slide((100, 50), (40, 21)), 0.2, 0.5)
    assert view.resampling == "area"  # 2.44 on average, not within 1 % of 2.5
    assert view.scale_xy == (2.5, 2.5)
    assert view.step_xy == (1.0, 2.5 * 21 / 50)
    view = SlideView.open(memory_slide((100, 50), (40, 20)), 0.2, 0.5)
    assert (view.resampling, view.scale_xy, view.size_wh) == ("none", (2.5, 2.5), (40, 20))


def test_a_two_fold_reduction_is_the_mean_of_four_pixels(memory_slide):
    slide = memory_slide((4, 2))
    slide.levels[0][:] = np.arange(8).reshape(2, 4, 1) * [1, 10, 20]
    small = SlideView.open(slide, 0.25, 0.5).read(0, 0, 2, 1)
    # Means 2.5, 25, 50 and 4.5, 45, 90, halves rounded up.
    assert small.tolist() == [[[3, 25, 50], [5, 45, 90]]]


@settings(deadline=None, max_examples=40)
@given(step=st.floats(1.02, 5.0), width=st.integers(8, 60), height=st.integers(8, 60))
def test_area_averaging_equals_the_reference_within_one_level(memory_slide, step, width, height):
    slide = memory_slide((width, height))
    view = SlideView.open(slide, 0.5, 0.5 * step)
    expected = area_average(slide.levels[0], view.step_xy, view.size_wh)
    small = view.read(0, 0, *view.size_wh)
    assert np.abs(small - expected).max() <= 0.501


@settings(deadline=None, max_examples=40)
@given(
    mpp=st.sampled_from([0.3, 0.37, 0.5, 0.77, 1.0, 1.3]),
    window=st.tuples(*[st.integers(-5, 40)] * 2, *[st.integers(0, 25)] * 2),
)
def test_a_pixel_is_the_same_in_every_window(memory_slide, mpp, window):
    view = SlideView.open(memory_slide((61, 47), (30, 23)), 0.5, mpp)
    x, y, width, height = window
    padded = np.zeros((120, 120, 3), np.uint8)
    padded[10 : 10 + view.size_wh[1], 10 : 10 + view.size_wh[0]] = view.read(0, 0, *view.size_wh)
    expected = padded[10 + y : 10 + y + height, 10 + x : 10 + x + width]
    np.testing.assert_array_equal(view.read(x, y, width, height), expected)


def test_enlarging_interpolates_between_pixel_centers_and_warns(memory_slide, caplog):
    slide = memory_slide((2, 1))
    slide.levels[0][:] = [[[0, 0, 0], [100, 200, 40]]]
    with caplog.at_level(logging.WARNING):
        view = SlideView.open(slide, 1.0, 0.5)
    assert "memory.tif: 1 um/px is coarser than the model's 0.5 um/px; enlarging" in caplog.text
    large = view.read(0, 0, 4, 2)
    assert large[0].tolist() == [[0, 0, 0], [25, 50, 10], [75, 150, 30], [100, 200, 40]]
    np.testing.assert_array_equal(large[0], large[1])


def test_enlarging_more_than_twofold_is_refused(memory_slide):
    with pytest.raises(
        SlideError, match=r"1\.01 um/px is too coarse .* use a slide scanned at 1 um"
    ):
        SlideView.open(memory_slide((9, 9)), 1.01, 0.5)


@pytest.mark.parametrize(("slide_mpp", "mpp"), [(0, 0.5), (0.5, -1), (float("nan"), 0.5)])
def test_impossible_scales_are_refused(memory_slide, slide_mpp, mpp):
    with pytest.raises(SlideError, match="use positive numbers"):
        SlideView.open(memory_slide((9, 9)), slide_mpp, mpp)


def test_centers_are_floored_and_float_error_is_forgiven(memory_slide):
    view = SlideView.open(memory_slide((900, 900)), 0.1, 0.3)  # scale 2.9999999999999996
    level0_xy = np.array([[3.0, 2.999], [2.9999999999, -0.5], [899.9, 0]])
    assert view.centers(level0_xy).tolist() == [[1, 0], [1, -1], [299, 0]]


@pytest.mark.parametrize("level0_xy", [[[0.0, np.nan]], [[np.inf, 0.0]], [[1.0, 2.0, 3.0]], [1.0]])
def test_centers_that_are_no_points_are_refused(memory_slide, level0_xy):
    with pytest.raises(TilingError, match="level0_xy"):
        SlideView.open(memory_slide((9, 9)), 0.5, 0.5).centers(np.array(level0_xy))
